"""`agentd log`: the agent's own logs, whether or not there is an agent."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

MARK = "5eed" * 8


@pytest.fixture(name="log_dir")
def _log_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "s" / "log"
    directory.mkdir(parents=True)
    return directory


def command(*words: str) -> list[str]:
    """Return the command line."""
    return [sys.executable, "-P", "-m", "agentd", "log", *words]


def environment(log_dir: Path) -> dict[str, str]:
    """Return one that leads to these logs alone."""
    return {**os.environ, "AGENTD_STATE_DIR": str(log_dir.parent)}


def printed(log_dir: Path, *words: str) -> tuple[int, bytes, str]:
    """Run it to its end; return status, stdout and stderr."""
    done = subprocess.run(
        command(*words), env=environment(log_dir), capture_output=True, timeout=60, check=False
    )
    return done.returncode, done.stdout, done.stderr.decode()


@contextmanager
def following(log_dir: Path, *words: str) -> Iterator[IO[bytes]]:
    """Follow the logs within the block and yield what is printed; it ends once nobody reads."""
    process = subprocess.Popen(
        command("-f", *words), env=environment(log_dir), stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        with process.stdout as out:
            yield out
        assert process.wait(10) in {0, 1}
    finally:
        process.kill()
        process.wait()


def test_the_last_lines_of_each_log_stand_below_its_name(log_dir: Path) -> None:
    """As tail(1) prints them; what was rotated away, and what is no log, is left out."""
    (log_dir / "agentd.log").write_bytes(b"1\n2\n3\n")
    (log_dir / "agentd.log.1").write_bytes(b"old\n")
    (log_dir / "stderr.log").write_bytes(b"a\n\xffb")
    os.mkfifo(log_dir / "pipe.log")
    expected = b"==> agentd.log <==\n2\n3\n\n==> stderr.log <==\na\n\xffb\n"
    assert printed(log_dir, "-n", "2") == (0, expected, "")
    none = b"==> agentd.log <==\n\n==> stderr.log <==\n"
    assert printed(log_dir, "-n", "0") == (0, none, "")


@pytest.mark.parametrize("count", [1, 7, 20_000, 50_000])
def test_the_end_of_a_large_log_is_exact(log_dir: Path, count: int) -> None:
    """Whatever blocks it is read in."""
    lines = [b"%d %s\n" % (number, b"x" * (number % 97)) for number in range(30_000)]
    (log_dir / "agentd.log").write_bytes(b"".join(lines))
    shown = printed(log_dir, "-n", str(count))[1]
    assert shown == b"==> agentd.log <==\n" + b"".join(lines[-count:])


def test_without_a_log_it_says_so(log_dir: Path) -> None:
    """In one line, with the status of a refusal, and not even the mark on stdout."""
    said = f"agentd: there is no log in {log_dir}: no agent has run here yet\n"
    assert printed(log_dir, "-f", "--mark", MARK) == (1, b"", said)
    log_dir.rmdir()
    assert printed(log_dir) == (1, b"", said)


def test_the_mark_comes_first(log_dir: Path) -> None:
    """So that what start-up files print can be told from it."""
    (log_dir / "agentd.log").write_bytes(b"1\n")
    assert printed(log_dir, "--mark", MARK)[1] == f"{MARK}\n==> agentd.log <==\n1\n".encode()


def test_it_follows_through_a_rotation(log_dir: Path) -> None:
    """Nothing is lost or doubled; a half line waits for its end, a new log is taken up."""
    log = log_dir / "agentd.log"
    log.write_bytes(b"1\n2\nha")
    with following(log_dir, "-n", "2") as out:
        assert [out.readline() for _ in range(2)] == [b"==> agentd.log <==\n", b"2\n"]
        with log.open("ab") as file:
            file.write(b"lf\n3\n")
        assert [out.readline() for _ in range(2)] == [b"half\n", b"3\n"]
        with log.open("ab") as file:
            log.rename(log_dir / "agentd.log.1")
            file.write(b"4\n")
            log.write_bytes(b"5\n")
        assert [out.readline() for _ in range(2)] == [b"4\n", b"5\n"]
        (log_dir / "stderr.log").write_bytes(b"oh\n")
        expected = [b"\n", b"==> stderr.log <==\n", b"oh\n"]
        assert [out.readline() for _ in range(3)] == expected


def test_a_refusal_of_the_disk_is_one_line(log_dir: Path) -> None:
    """No traceback."""
    (log_dir / "agentd.log").write_bytes(b"1\n")
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command(),
            env=environment(log_dir),
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == b"agentd: cannot write: No space left on device\n"
