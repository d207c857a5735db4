"""A job that testifies: how often it ran, what it prints, how it ends."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

# The program's files lie in the directory that is its first argument: `first` and `second`
# are its output, `ran` and `terms` are appended to, `go` is a pipe it waits at.
_BEGIN = 'echo ran >>"$0/ran"; cat "$0/first"; '
_WAIT = 'read -r _ <"$0/go"; cat "$0/second"; '
_ON_TERM = """trap 'echo term >>"$0/terms"; cat "$0/second"; exit 9' TERM; """
_SLEEP = 'sleep 600 & echo >>"$0/ready"; wait; '


class Way(Enum):
    """How a witness ends: the end of its program, its exit code, its signal, the cause."""

    EXITS = (_BEGIN + _WAIT + "exit 7", 7, None, "self")
    DIES = (_BEGIN + _WAIT + "kill -USR1 $$", None, "SIGUSR1", "self")
    STOPPED = (_ON_TERM + _BEGIN + _SLEEP, 9, None, "user")

    def __init__(self, program: str, exit_code: int | None, signal: str | None, cause: str) -> None:
        self.program = program
        self.exit_code = exit_code
        self.signal = signal
        self.cause = cause


@dataclass(frozen=True, slots=True)
class Witness:
    """One such job and its directory."""

    directory: str
    way: Way
    #: Our end of the pipe it waits at, open for reading too, so that nobody waits to open it.
    gate: int

    @property
    def argv(self) -> tuple[str, ...]:
        """What to submit."""
        return ("/bin/sh", "-c", self.way.program, self.directory)

    @property
    def output(self) -> bytes:
        """What it prints."""
        both = ("first", "second")
        return b"".join(Path(self.directory, name).read_bytes() for name in both)

    def runs(self) -> int:
        """Return how often its program began."""
        return self._lines("ran")

    def terms(self) -> int:
        """Return how many SIGTERM it has seen."""
        return self._lines("terms")

    def is_ready(self) -> bool:
        """Say whether one that is to be stopped has printed its first part and sleeps."""
        return self._lines("ready") > 0

    def _lines(self, name: str) -> int:
        try:
            return Path(self.directory, name).read_bytes().count(b"\n")
        except FileNotFoundError:
            return 0

    def let_go(self) -> None:
        """Let it print its second part and end, whether it waits already or not."""
        os.write(self.gate, b"go\n")


@contextmanager
def witnesses(root: str) -> Iterator[Callable[[Way], Witness]]:
    """Yield a maker of witnesses; each prints two parts of 40,000 and 30,000 bytes of its own."""
    made: list[Witness] = []

    def make(way: Way) -> Witness:
        directory = f"{root}/witness-{len(made)}"
        os.mkdir(directory)
        chance = random.Random(len(made))
        Path(directory, "first").write_bytes(chance.randbytes(40_000))
        Path(directory, "second").write_bytes(chance.randbytes(30_000))
        os.mkfifo(f"{directory}/go")
        gate = os.open(f"{directory}/go", os.O_RDWR | os.O_CLOEXEC)
        made.append(Witness(directory, way, gate))
        return made[-1]

    try:
        yield make
    finally:
        for witness in made:
            os.close(witness.gate)
