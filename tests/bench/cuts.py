"""Fifty random cuts of a link over ssh while 200 MB of log are followed over it."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from functools import partial
from pathlib import Path

from tests.bench.remote import warm_rig
from tests.bench.rivals import is_installed
from tests.bench.stage import Stage
from tests.bench.table import Row
from tests.faults.cuts import CUTS, random_cuts
from tests.faults.traffic import Follower
from tests.helpers.jobs import Printer, printer
from tests.helpers.wait import dawdle, wait_until

SIZE_BYTES = 200_000_000
COUNT = 50
#: Between two pieces of 50 kB, so that the log lasts as long as the cuts.
PIECE_EVERY_S = 0.04
RIVAL_SIZE_BYTES = 10_000_000
RIVAL_CUTS = 3


def measure(stage: Stage) -> list[Row]:
    """Return the bytes lost or doubled, beside those of `tail -f` restarted by autossh."""
    cuts, wrong_bytes = _ours()
    theirs = float(_theirs(stage)) if is_installed("autossh") else None
    return [
        Row(
            f"bytes lost or doubled, {SIZE_BYTES // 1_000_000} MB followed, {cuts} random cuts",
            wrong_bytes,
            "bytes",
            f"autossh tail -f, {RIVAL_SIZE_BYTES // 1_000_000} MB, {RIVAL_CUTS} cuts",
            theirs,
            f"0 over {COUNT} cuts",
            wrong_bytes == 0 and cuts == COUNT,
        )
    ]


def _ours() -> tuple[int, int]:
    """Return how often the link was cut while the log was followed, and the bytes in error."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"cuts: seed {seed}", file=sys.stderr)
    chance = random.Random(seed)
    printing = printer(SIZE_BYTES, pause_s=PIECE_EVERY_S)
    with warm_rig() as (rig, client):
        job = client.submit(printing.argv)
        follower = Follower(rig, job.id, f"{rig.client.root}/followed", printing.size_bytes)
        follower.begin()
        done = 0
        for name in random_cuts(chance, COUNT):
            dawdle(chance.uniform(0, 1.0))
            if follower.process is None or follower.process.poll() is not None:
                break
            CUTS[name].do(rig)
            done += 1
            follower.wait_for_more(60, f"the log after the cut: {name}")
        assert follower.end(300) == 0, follower.complaints()
        return done, _wrong_bytes(Path(follower.path), printing)


def _wrong_bytes(path: Path, printing: Printer) -> int:
    """Return 0 if it is the log, else by how much it is longer or shorter, 1 at least."""
    got = path.read_bytes()
    if hashlib.sha256(got).hexdigest() == printing.sha256:
        return 0
    return max(1, abs(len(got) - printing.size_bytes))


def _theirs(stage: Stage) -> int:
    """Return the bytes in error of `ssh host tail -c +1 -f`, begun anew after each cut."""
    printing = printer(RIVAL_SIZE_BYTES, pause_s=PIECE_EVERY_S)
    directory = Path(stage.fresh("tail"))
    log, followed = directory / "log", directory / "followed"
    with warm_rig() as (rig, _), log.open("wb") as out, followed.open("wb") as into:
        job = subprocess.Popen(printing.argv, stdout=out)
        options = ["-M", "0", *rig.ssh_command[1:], "-T", rig.destination]
        follow = subprocess.Popen(
            ["autossh", *options, f"tail -c +1 -f {log}"],
            env={**rig.client.env, "AUTOSSH_GATETIME": "0"},
            cwd=rig.client.home,
            stdin=subprocess.DEVNULL,
            stdout=into,
            stderr=subprocess.DEVNULL,
        )
        try:
            for _cut in range(RIVAL_CUTS):
                wait_until(
                    partial(_is_longer, followed, followed.stat().st_size + 500_000),
                    deadline_s=60,
                    what="tail -f goes on",
                )
                rig.sshd.end_sessions()
            assert job.wait(300) == 0
            _settle(followed)
        finally:
            # It ends its ssh at this one.
            follow.terminate()
            follow.wait()
            job.kill()
            job.wait()
    return _wrong_bytes(followed, printing)


def _is_longer(path: Path, size_bytes: int) -> bool:
    return path.stat().st_size > size_bytes


def _settle(path: Path) -> None:
    """Wait until nothing is added any more, for a second."""
    size = -1
    while size != (size := os.path.getsize(path)):
        dawdle(1.0)
