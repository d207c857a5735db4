"""What a server answers, and what is made of it."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from agentctl.errors import HostUnreachableError
from agentctl.hosts.look import (
    Findings,
    answer_lines,
    bring_script,
    look_script,
    no_python,
    read_findings,
)

_MARK = "5b1d"


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_the_script_finds_this_python(shell: str) -> None:
    """Run here, it describes the Python it was asked to look at."""
    script = look_script(_MARK, sys.executable)

    done = subprocess.run([shell], input=script, capture_output=True, check=True, timeout=60)

    target = read_findings(answer_lines(done.stdout, b"", _MARK, "here"), "here").target
    assert target is not None
    assert target.version == sys.version_info[:2]
    assert done.stderr == b""


def test_noise_is_no_answer() -> None:
    """Lines without the mark are left out, wherever they stand."""
    said = b"Welcome\n5b1d old /usr/bin/python3 Python 3.9.2\nlater\n5b1d end\nbye\n"

    assert answer_lines(said, b"", _MARK, "gpu1") == ["old /usr/bin/python3 Python 3.9.2"]


@pytest.mark.parametrize("said", [b"", b"This account is not available.\n", b"5b1d uv /bin/uv\n"])
def test_a_shell_that_does_something_else_is_named(said: bytes) -> None:
    """Without the last line the answer is none."""
    with pytest.raises(HostUnreachableError, match="the login shell of gpu1"):
        answer_lines(said, b"", _MARK, "gpu1")


def test_a_hostile_answer_reaches_no_command_line() -> None:
    """A path of uv with characters for a shell is not used."""
    assert read_findings(["uv /bin/uv; rm -rf /"], "gpu1").uv is None


def test_what_to_do_without_python_is_said() -> None:
    """One line, with what was found."""
    found = Findings(None, None, ("/usr/bin/python3 Python 3.9.2",))

    text = str(no_python(found, "gpu1", None))

    assert "found /usr/bin/python3 Python 3.9.2" in text
    assert "agentctl host add gpu1 --python" in text


def test_uv_makes_no_directory_for_others(tmp_path: Path) -> None:
    """Where users share a umask, what uv makes is the user's alone nevertheless."""
    uv = tmp_path / "uv"
    uv.write_text('#!/bin/sh\nmkdir -p "$UV_PYTHON_INSTALL_DIR"\n', encoding="utf-8")
    uv.chmod(0o700)

    subprocess.run(
        ["sh", "-c", "umask 002; exec sh"],
        input=bring_script(_MARK, str(uv)),
        env={"XDG_DATA_HOME": str(tmp_path / "data"), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        check=True,
        timeout=60,
    )

    assert stat.S_IMODE((tmp_path / "data/agentd").stat().st_mode) == 0o700
