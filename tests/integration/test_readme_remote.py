"""The README's section on servers is true: a person at a terminal sees what it shows.

Each `$` line of its console block is run by a shell in a terminal of 80 columns, with a real
sshd between two machines, and every line shown has to come, in that order and no other between.

What the README leaves open: a line `…` is any number of lines, `…` in a line is any text, the
widths of a table's columns may differ, and durations are not compared.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers.sshrig import BARE_PATH, SshRig, Variant

_README = Path(__file__).resolve().parents[2] / "README.md"
_HEADING = "## On a server, from your laptop\n"
_LINE_WITHIN_S = 60.0
_ANY = "…"
_DURATION = re.compile(r"\b(\d+(\.\d+)?(ms|s|m|h|d))+\b")

#: The reader's directory on the server, below the home there.
_DIRECTORY = "net"
#: The reader's program. It learns on while nobody can see it, and stops for nobody.
_TRAIN = """\
import os, time
for epoch, loss in enumerate((0.7675, 0.5120, 0.3398, 0.2711), 1):
    print(f"epoch {epoch}/4  loss {loss:.4f}")
    while epoch == 2 and not os.path.exists("network-is-away"):
        time.sleep(0.02)
"""


@dataclass(frozen=True, slots=True)
class _Step:
    """One command of the README, and the lines below it."""

    command: str
    shown: tuple[str, ...]


def _steps() -> list[_Step]:
    section = _README.read_text("utf-8").split(_HEADING)[1].split("\n## ")[0]
    block = section.split("```console\n$ ")[1].split("\n```")[0]
    parts = [part.split("\n") for part in block.split("\n$ ")]
    return [_Step(command, tuple(shown)) for command, *shown in parts]


def _plain(line: str) -> str:
    """Return a line as it is compared: no durations, one blank between words."""
    return " ".join(_DURATION.sub("<time>", line).split())


def _is_as_shown(line: str, shown: str) -> bool:
    pattern = re.escape(_plain(shown)).replace(re.escape(_ANY), ".*")
    return re.fullmatch(pattern, _plain(line)) is not None


class _Terminal:
    """A shell's command in a terminal of 80 columns, line by line."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._read = b""

    def next_line(self) -> str | None:
        """Return the next line, None after the last one."""
        deadline_s = time.monotonic() + _LINE_WITHIN_S
        while b"\n" not in self._read:
            left_s = deadline_s - time.monotonic()
            assert left_s > 0, f"no line within {_LINE_WITHIN_S:g} s after {self._read!r}"
            if not select.select([self._descriptor], [], [], left_s)[0]:
                continue
            try:
                part = os.read(self._descriptor, 65536)
            except OSError:
                # EIO: nobody has the terminal any more.
                part = b""
            if not part:
                rest, self._read = self._read, b""
                return rest.decode() or None
            self._read += part
        line, _, self._read = self._read.partition(b"\n")
        return line.decode().rstrip("\r")


@contextmanager
def _typed(rig: SshRig, command: str) -> Iterator[_Terminal]:
    """Run a command line as the person at the laptop does; its end is not waited for."""
    ours, theirs = pty.openpty()
    try:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        shell = subprocess.Popen(
            ["sh", "-c", command],
            env={**rig.client.env, "TERM": "xterm"},
            cwd=rig.client.home,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
    finally:
        os.close(theirs)
    try:
        yield _Terminal(ours)
    finally:
        os.close(ours)
        if shell.poll() is None:
            os.killpg(shell.pid, signal.SIGKILL)
        shell.wait()


class _Network:
    """What happens to the link in the middle of the section."""

    def __init__(self, rig: SshRig) -> None:
        self._rig = rig

    def before(self, shown: str) -> None:
        """Do what the line that comes next tells of."""
        if shown.startswith("agentctl: reconnecting"):
            self._rig.sshd.stop(sessions_too=True)
            self._rig.signal_ssh(signal.SIGKILL)
            Path(self._rig.server.home, "net/network-is-away").touch()
        elif "is back after" in shown:
            self._rig.sshd.start()


def _run(rig: SshRig, step: _Step) -> None:
    network = _Network(rig)
    skips = False
    with _typed(rig, step.command) as terminal:
        for shown in step.shown:
            if shown == _ANY:
                skips = True
                continue
            network.before(shown)
            line = terminal.next_line()
            while skips and line is not None and not _is_as_shown(line, shown):
                line = terminal.next_line()
            skips = False
            assert line is not None, f"{step.command}: ended before {shown!r}"
            assert _is_as_shown(line, shown), (step.command, shown, line)
        assert terminal.next_line() is None, step.command


@pytest.fixture(name="gpu1")
def _gpu1(rig: SshRig) -> SshRig:
    """Return a server with a train.py, no agent and no internet."""
    home = Path(rig.server.home)
    for path, content in (
        ("net/train.py", _TRAIN),
        (".config/pip/pip.conf", "[global]\nno-index = true\nfind-links =\n"),
        (".config/uv/uv.toml", "offline = true\n"),
    ):
        (home / path).parent.mkdir(parents=True)
        (home / path).write_text(content, encoding="utf-8")
    return rig


@pytest.mark.parametrize("rig", [Variant(path=BARE_PATH)], indirect=True)
def test_section_on_servers_shows_what_a_person_sees(gpu1: SshRig) -> None:
    """From `host add` to a log that goes on at the exact byte after the network was away."""
    steps = _steps()
    assert len(steps) > 1

    for step in steps:
        _run(gpu1, step)
