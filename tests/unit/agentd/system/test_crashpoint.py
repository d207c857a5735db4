"""Crash points kill exactly once, and only where a test asked for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from agentd.system import crashpoint
from tests.unit.agentd.system.sandbox import fork, isolated, sleeper

_REACH_TWICE = """
from agentd.system.crashpoint import reach
reach("other.point")
print("before", flush=True)
reach("a.point")
print("after", flush=True)
"""


def reach_as_a_program(**environment: str) -> tuple[int, str]:
    """Run a program that passes two points; return its status and what it printed."""
    base = {name: value for name, value in os.environ.items() if name != "AGENTD_CRASH_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", _REACH_TWICE],
        env={**base, **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def test_without_the_variable_nothing_happens(tmp_path: Path) -> None:
    """A file with the point's name in the current directory means nothing."""
    (tmp_path / "a.point").touch()

    assert reach_as_a_program() == (0, "before\nafter\n")
    assert (tmp_path / "a.point").exists()


def test_a_point_that_was_asked_for_kills_once(tmp_path: Path) -> None:
    """The next to come by passes; other points let everybody pass."""
    (tmp_path / "a.point").touch()

    assert reach_as_a_program(AGENTD_CRASH_DIR=str(tmp_path)) == (-signal.SIGKILL, "before\n")
    assert reach_as_a_program(AGENTD_CRASH_DIR=str(tmp_path)) == (0, "before\nafter\n")


@isolated
def test_a_point_kills_others_with_it(tmp_path: Path) -> None:
    """Those it lists, and first."""
    others = [sleeper(), sleeper()]
    (tmp_path / "a.point").write_text(" ".join(map(str, others)), encoding="ascii")
    crashpoint._DIRECTORY = str(tmp_path)

    child = fork(lambda: crashpoint.reach("a.point"))

    assert [os.waitpid(pid, 0)[1] for pid in (child, *others)] == [signal.SIGKILL] * 3


@isolated
def test_of_many_at_one_point_one_is_killed(tmp_path: Path) -> None:
    """Whoever removes the file; the others pass."""
    crashpoint._DIRECTORY = str(tmp_path)
    read_end, write_end = os.pipe()
    many = [
        fork(lambda: os.read(read_end, 1), lambda: crashpoint.reach("a.point")) for _ in range(8)
    ]
    (tmp_path / "a.point").touch()

    os.write(write_end, b"!" * len(many))

    statuses = [os.waitpid(pid, 0)[1] for pid in many]
    assert sorted(statuses) == [0] * (len(many) - 1) + [signal.SIGKILL]
