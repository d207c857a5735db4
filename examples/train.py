#!/usr/bin/env python3
"""Train a small neural network, the way long jobs should: resumable at any moment.

Two interleaved spirals, one hidden layer, stochastic gradient descent, nothing but the
standard library. It prints one line an epoch, writes a checkpoint at intervals and on
SIGTERM, and goes on from the checkpoint when it is started again:

    agentctl submit --name spirals -- python3 examples/train.py --epochs 200
    agentctl logs -f spirals
    agentctl stop spirals        # writes a checkpoint before it ends
    agentctl submit --name spirals-2 -- python3 examples/train.py --epochs 200

It exits with 0 once every epoch is done, with 143 (128 + SIGTERM) after a checkpoint on
SIGTERM, and with 3 at the epoch given to --fail-at-epoch.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import signal
import sys
import time
from dataclasses import asdict, dataclass

POINTS_PER_SPIRAL = 500
HIDDEN = 16
LEARNING_RATE = 0.03
EXIT_FAILED = 3
EXIT_STOPPED = 128 + signal.SIGTERM

Point = tuple[float, float, int]


@dataclass
class Network:
    """Two inputs, `HIDDEN` tanh units, one logistic output. Changed in place by training."""

    #: For each hidden unit: weight of x, weight of y, bias.
    hidden: list[list[float]]
    #: One weight for each hidden unit, and the bias.
    output: list[float]

    @classmethod
    def fresh(cls, chance: random.Random) -> Network:
        """Return a network with random weights."""
        hidden = [
            [chance.gauss(0, 2), chance.gauss(0, 2), chance.gauss(0, 1)] for _ in range(HIDDEN)
        ]
        return cls(hidden, [chance.gauss(0, 0.5) for _ in range(HIDDEN + 1)])

    def activate(self, x: float, y: float) -> tuple[list[float], float]:
        """Return the hidden activations and the probability of class 1."""
        units = [math.tanh(a * x + b * y + c) for a, b, c in self.hidden]
        total = self.output[-1] + sum(w * u for w, u in zip(self.output, units, strict=False))
        return units, 1 / (1 + math.exp(-max(-30.0, min(30.0, total))))

    def learn(self, point: Point) -> float:
        """Take one gradient step on one point and return its loss before the step."""
        x, y, label = point
        units, probability = self.activate(x, y)
        slope = probability - label
        for index, unit in enumerate(units):
            back = slope * self.output[index] * (1 - unit * unit)
            self.output[index] -= LEARNING_RATE * slope * unit
            weights = self.hidden[index]
            weights[0] -= LEARNING_RATE * back * x
            weights[1] -= LEARNING_RATE * back * y
            weights[2] -= LEARNING_RATE * back
        self.output[-1] -= LEARNING_RATE * slope
        return -math.log(max(1e-12, probability if label else 1 - probability))


def spirals(chance: random.Random) -> list[Point]:
    """Return two noisy spirals, one of each class."""
    points: list[Point] = []
    for label in (0, 1):
        for index in range(POINTS_PER_SPIRAL):
            radius = index / POINTS_PER_SPIRAL
            angle = 1.25 * math.tau * radius + label * math.pi
            x = radius * math.cos(angle) + chance.gauss(0, 0.02)
            y = radius * math.sin(angle) + chance.gauss(0, 0.02)
            points.append((x, y, label))
    return points


def save(path: str, epoch: int, network: Network) -> None:
    """Replace the checkpoint atomically: a kill at any moment leaves the old one or the new."""
    scratch = f"{path}.tmp"
    with open(scratch, "w", encoding="utf-8") as file:
        json.dump({"epoch": epoch, "network": asdict(network)}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, path)


def load(path: str) -> tuple[int, Network] | None:
    """Return the epochs done and the network, or None if there is no checkpoint."""
    try:
        with open(path, encoding="utf-8") as file:
            body = json.load(file)
    except FileNotFoundError:
        return None
    return int(body["epoch"]), Network(**body["network"])


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=100, help="stop after this many (100)")
    parser.add_argument("--checkpoint", default="train-checkpoint.json", metavar="FILE")
    parser.add_argument("--every", type=int, default=10, metavar="N", help="epochs between saves")
    parser.add_argument("--fail-at-epoch", type=int, default=0, metavar="N", help="exit 3 there")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def train(options: argparse.Namespace) -> int:
    """Train to the end, to SIGTERM or to the failure asked for. Returns the exit status."""
    stop_asked = False

    def on_term(_number: int, _frame: object) -> None:
        # Only noted: a checkpoint in the middle of an epoch would not resume exactly.
        nonlocal stop_asked
        stop_asked = True

    signal.signal(signal.SIGTERM, on_term)
    points = spirals(random.Random(options.seed))
    resumed = load(options.checkpoint)
    done, network = resumed or (0, Network.fresh(random.Random(options.seed + 1)))
    print(f"resuming after epoch {done}" if resumed else "starting fresh", flush=True)
    for epoch in range(done + 1, options.epochs + 1):
        if epoch == options.fail_at_epoch:
            print(f"epoch {epoch}: failing as asked", file=sys.stderr, flush=True)
            return EXIT_FAILED
        began_s = time.monotonic()
        # Seeded by the epoch, so that a resumed run equals one that was never stopped.
        random.Random(epoch).shuffle(points_now := points.copy())
        loss = sum(map(network.learn, points_now)) / len(points)
        took_ms = 1000 * (time.monotonic() - began_s)
        print(f"epoch {epoch:4d}/{options.epochs}  loss {loss:.4f}  {took_ms:.0f} ms", flush=True)
        if stop_asked or epoch % options.every == 0 or epoch == options.epochs:
            save(options.checkpoint, epoch, network)
        if stop_asked:
            print(f"stopped after epoch {epoch}; checkpoint in {options.checkpoint}", flush=True)
            return EXIT_STOPPED
    hits = sum((network.activate(x, y)[1] > 1 / 2) == bool(label) for x, y, label in points)
    print(f"done: {hits} of {len(points)} points right", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(train(parse()))
