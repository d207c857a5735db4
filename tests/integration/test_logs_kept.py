"""Logs that rotate, lose their middle, go to the user's files or come from a terminal."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
import subprocess
from pathlib import Path

import pytest

from agentctl.api.logs import LogQuery
from agentctl.model import Chunk, Fin, Gap, GapReason
from tests.helpers import books, jobs
from tests.helpers.agent import Agent
from tests.helpers.wait import wait_until

#: By hand, as the promise has it: AGENT_TEST_LOG_BYTES=5368709120 pytest -k retention --timeout 900
_LOG_BYTES = int(os.environ.get("AGENT_TEST_LOG_BYTES", "300000000"))
_KEPT_BYTES = _LOG_BYTES // 50 if "AGENT_TEST_LOG_BYTES" in os.environ else 8 << 20


def _configure(agent: Agent, segment: str) -> None:
    Path(agent.config_file).write_text(f'[logs]\nsegment = "{segment}"\n', encoding="utf-8")


def _segments(agent: Agent, job_id: int, stream: str = "out") -> list[Path]:
    return sorted(Path(f"{agent.state_dir}/jobs/{job_id}").glob(f"{stream}-*.log"))


def _disk_bytes(agent: Agent, job_id: int) -> int:
    taken = 0
    with os.scandir(f"{agent.state_dir}/jobs/{job_id}") as entries:
        for entry in entries:
            # A segment may be dropped, and the exit record gets its name, meanwhile.
            with contextlib.suppress(FileNotFoundError):
                taken += entry.stat().st_blocks * 512
    return taken


def _numbers(count: int) -> int:
    """Return how many bytes `seq 1 COUNT` prints."""
    digits = len(str(count))
    full = sum(9 * 10 ** (n - 1) * (n + 1) for n in range(1, digits))
    return full + (count - 10 ** (digits - 1) + 1) * (digits + 1)


def _count_for(size_bytes: int) -> int:
    return next(n for n in itertools.count(1000, 1000) if _numbers(n) >= size_bytes)


def test_retention_keeps_head_and_tail(agent: Agent) -> None:
    """Between them an explicit gap; the disk never holds more than was allowed."""
    count = _count_for(_LOG_BYTES)
    job_id = int(
        agent.cli("submit", "--retain", str(_KEPT_BYTES), "--", "seq", "1", str(count)).stdout
    )
    most = 0
    while agent.cli("wait", "--timeout", "0.3s", str(job_id)).returncode == 75:
        most = max(most, _disk_bytes(agent, job_id))
    most = max(most, _disk_bytes(agent, job_id))

    with agent.client() as client:
        items = list(client.log_items(LogQuery(job_id)))

    gaps = [item for item in items if isinstance(item, Gap)]
    assert [gap.reason for gap in gaps] == [GapReason.RETENTION]
    head = b"".join(i.data for i in items if isinstance(i, Chunk) and i.offset < gaps[0].to_offset)
    tail = b"".join(i.data for i in items if isinstance(i, Chunk) and i.offset >= gaps[0].to_offset)
    # Three more for whole numbers where a line is cut.
    expected = b"".join(b"%d\n" % n for n in range(1, len(head) // 2))[: len(head)]
    assert head == expected
    last = range(count - len(tail) // len(str(count)) - 3, count + 1)
    assert b"".join(b"%d\n" % n for n in last).endswith(tail)
    assert (gaps[0].from_offset, len(tail)) == (len(head), _numbers(count) - gaps[0].to_offset)
    assert len(head) + len(tail) > _KEPT_BYTES // 2
    assert most < _KEPT_BYTES + (1 << 20)
    assert agent.show(job_id)["log_bytes"] == _numbers(count)
    said = agent.cli("logs", "--tail", "1", str(job_id), check=True)
    assert (said.stdout, said.stderr) == (f"{count}\n", "")
    assert re.fullmatch(
        r"\[gap: [\d,]+ bytes dropped to keep the log within its size\]\n",
        agent.cli("logs", "--offset", str(len(head)), str(job_id)).stderr,
    )


def test_a_follower_across_rotations_and_kills(agent: Agent) -> None:
    """Twenty segments and two servers later every byte has come, once and in order."""
    _configure(agent, "256KiB")
    printer = jobs.printer(5_000_000, seed=5, pause_s=0.01)
    job_id = int(agent.cli("submit", "--", *printer.argv, check=True).stdout)
    digest, size_bytes, kills = hashlib.sha256(), 0, 0
    with agent.popen("logs", "-f", str(job_id), stdout=subprocess.PIPE) as follower:
        assert follower.stdout is not None
        while data := follower.stdout.read1(1 << 16):  # type: ignore[attr-defined]  # buffered
            digest.update(data)
            size_bytes += len(data)
            if kills < 2 and size_bytes > (kills + 1) * 1_500_000:
                agent.kill(wait_until(agent.server_pid, what="a server"))
                kills += 1
        assert follower.wait(10) == 0
    assert kills == 2
    assert size_bytes == printer.size_bytes
    assert digest.hexdigest() == printer.sha256
    assert len(_segments(agent, job_id)) > 10


def test_places_across_segments(agent: Agent) -> None:
    """Lines from the end, a byte, a time: none minds where a segment ends."""
    _configure(agent, "4KiB")
    agent.cli("run", "--", "seq", "1", "5000", check=True)
    whole = b"".join(b"%d\n" % number for number in range(1, 5001))
    assert len(_segments(agent, 1)) > 4
    assert agent.cli_bytes("logs", "1") == whole
    assert agent.cli_bytes("logs", "--tail", "3000", "1") == whole[-3000 * 5 :]
    for offset in (4095, 4096, 4097, 12_288, len(whole) - 1):
        assert agent.cli_bytes("logs", "--offset", str(offset), "1") == whole[offset:]
    stamped = agent.cli_bytes("logs", "--timestamps", "1").split(b"\n")
    assert [line.partition(b"Z ")[2] for line in stamped] == whole.split(b"\n")


def test_split_logs_rotate_apart(agent: Agent) -> None:
    """A short stderr stays whole beside a stdout that has lost its middle."""
    _configure(agent, "64KiB")
    options = ("--split-stderr", "--retain", "1MiB")
    line = "echo begin >&2; seq 1 300000; echo end >&2"
    agent.cli("run", *options, "-c", line, check=True)
    assert agent.cli_bytes("logs", "--stderr", "1") == b"begin\nend\n"
    with agent.client() as client:
        items = list(client.log_items(LogQuery(1)))
    assert sum(isinstance(item, Gap) for item in items) == 1
    assert isinstance(items[-1], Fin)
    assert sum(p.stat().st_size for p in _segments(agent, 1)) <= 1 << 20
    assert len(_segments(agent, 1, "err")) == 1


def test_a_segment_is_private(agent: Agent) -> None:
    """Whatever the caller's umask."""
    agent.cli("run", "-c", "umask 0; echo secret", check=True)
    modes = {path.stat().st_mode & 0o777 for path in Path(f"{agent.state_dir}/jobs/1").iterdir()}
    assert modes == {0o600}


@pytest.mark.parametrize("append", [False, True], ids=["truncated", "appended"])
def test_output_straight_to_files(agent: Agent, append: bool) -> None:  # noqa: FBT001  # a parameter of the test
    """As `>` and `2>` would, or `>>`; `logs` reads what this job wrote, and only that."""
    out, err = Path(agent.home, "out.log"), Path(agent.home, "err.log")
    out.write_text("old\n", encoding="ascii")
    options = ("--output", "out.log", "--error", "err.log", *(("--append",) if append else ()))
    job_id = int(
        agent.cli("submit", *options, "-c", "echo one; echo two >&2; sleep 0.2; echo three").stdout
    )
    followed = agent.cli_bytes("logs", "-f", str(job_id))
    assert followed == b"one\nthree\n"
    assert out.read_bytes() == b"old\n" * append + followed
    assert err.read_bytes() == b"two\n"
    assert agent.cli_bytes("logs", str(job_id)) == followed
    assert agent.cli_bytes("logs", "--stderr", str(job_id)) == b"two\n"
    assert agent.cli_bytes("logs", "--tail", "1", str(job_id)) == b"three\n"
    assert not _segments(agent, job_id)


def test_both_streams_into_one_file_keep_their_order(agent: Agent) -> None:
    """`> out.log 2>&1`; the file has the mode that the caller's umask gives."""
    agent.cli("submit", "--output", "both.log", "-c", "echo 1; echo 2 >&2; echo 3", check=True)
    agent.cli("wait", "1", check=True)
    both = Path(agent.home, "both.log")
    assert both.read_bytes() == b"1\n2\n3\n"
    mask = os.umask(0)
    os.umask(mask)
    assert both.stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_file_that_cannot_be_written_fails_the_start(agent: Agent) -> None:
    """Refused or start_failed, and the line names it; the program never runs."""
    os.mkdir(f"{agent.home}/directory")
    done = agent.cli("run", "--output", "directory", "-c", f"echo ran >{agent.root}/ran")
    assert done.returncode != 0
    assert "directory" in done.stderr
    assert not os.path.exists(f"{agent.root}/ran")


def test_a_terminal_of_its_own(agent: Agent) -> None:
    """All three are it, it leads its session, and lines end as a terminal ends them."""
    line = "tty; test -t 0 && test -t 1 && test -t 2 && stty size && ps -o tpgid= -p $$; echo $$"
    agent.cli("run", "--tty", "-c", line)
    name, size, group, leader, rest = agent.cli_bytes("logs", "1").split(b"\r\n")
    assert name.startswith(b"/dev/pts/")
    assert re.fullmatch(rb"[1-9]\d* [1-9]\d*", size)
    assert group.strip() == leader
    assert rest == b""


def test_a_terminal_outlives_its_shim(agent: Agent) -> None:
    """No hang-up: the warden holds its other side."""
    go = f"{agent.root}/go"
    os.mkfifo(go)
    line = f"trap 'echo hang-up' HUP; echo before; read -r x <{go}; echo after; exit 3"
    job_id = int(agent.cli("submit", "--tty", "-c", line, check=True).stdout)
    wait_until(lambda: agent.show(job_id)["log_bytes"] > 0, what="the first line")
    shim = agent.shim_pid(job_id)
    agent.kill(shim)
    wait_until(lambda: agent.show(job_id)["shim_pid"] not in {None, shim}, what="a rescue shim")
    Path(go).write_text("go\n", encoding="ascii")
    assert agent.cli("wait", "--timeout", "10s", str(job_id)).returncode == 3
    assert agent.cli_bytes("logs", str(job_id)) == b"before\r\nafter\r\n"
    books.check_all_over(agent)
