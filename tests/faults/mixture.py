"""A mixture of small jobs whose every trait is known beforehand."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.helpers.books import Truth

_SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGALRM)
_RAN = 'echo ran >>"$0.ran"; '
#: Between two pieces of output; the whole of a job takes some seconds.
_PIECES = 8


@dataclass(frozen=True, slots=True)
class Member:
    """One job of the mixture."""

    argv: tuple[str, ...]
    truth: Truth
    output: bytes = field(repr=False)
    ran_file: str

    def runs(self) -> int:
        """Return how often its program began."""
        try:
            return Path(self.ran_file).read_bytes().count(b"\n")
        except FileNotFoundError:
            return 0


def mixture(directory: str, count: int, chance: random.Random) -> Iterator[Member]:
    """Yield jobs that exit, die of signals, print, sleep, and leave daemons behind."""
    kinds = (_exiting, _dying, _printing, _printing, _sleeping, _leaving_daemons)
    for number in range(count):
        kind = kinds[number % len(kinds)]
        yield kind(f"{directory}/{number}", chance)


def _exiting(base: str, chance: random.Random) -> Member:
    code = chance.randrange(256)
    return _member(base, f"echo {code}; exit {code}", Truth(code, None), f"{code}\n".encode())


def _dying(base: str, chance: random.Random) -> Member:
    number = chance.choice(_SIGNALS)
    delay_s = chance.uniform(0, 5)
    program = f"echo dying; sleep {delay_s:.2f}; kill -{int(number)} $$"
    return _member(base, program, Truth(None, number.name), b"dying\n")


def _printing(base: str, chance: random.Random) -> Member:
    code = chance.randrange(256)
    output = chance.randbytes(chance.randrange(1_000, 400_000))
    piece = len(output) // _PIECES + 1
    for number in range(_PIECES):
        part = output[number * piece : (number + 1) * piece]
        Path(f"{base}.{number}").write_bytes(part)
    pause_s = chance.uniform(0, 1)
    numbers = " ".join(map(str, range(_PIECES)))
    program = f'for n in {numbers}; do cat "$0.$n"; sleep {pause_s:.2f}; done; exit {code}'
    return _member(base, program, Truth(code, None), output)


def _sleeping(base: str, chance: random.Random) -> Member:
    code = chance.randrange(256)
    return _member(base, f"sleep {chance.uniform(2, 9):.2f}; exit {code}", Truth(code, None), b"")


def _leaving_daemons(base: str, chance: random.Random) -> Member:
    code = chance.randrange(256)
    program = (
        "setsid sleep 600 & (setsid sleep 600 &); echo left; "
        f"sleep {chance.uniform(0, 5):.2f}; exit {code}"
    )
    return _member(base, program, Truth(code, None), b"left\n")


def _member(base: str, program: str, truth: Truth, output: bytes) -> Member:
    argv = ("/bin/sh", "-c", _RAN + program, base)
    return Member(argv, truth, output, f"{base}.ran")
