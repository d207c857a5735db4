"""A disk without room, and one that takes no writes: jobs go on, new ones are refused."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentctl.api.logs import LogQuery
from agentctl.model import Chunk, Gap, GapReason
from tests.faults.court import Court
from tests.helpers import books
from tests.helpers.agent import Agent
from tests.helpers.mounts import fill, set_read_only, tmpfs
from tests.helpers.wait import wait_until
from tests.helpers.witness import Way

pytestmark = pytest.mark.root

_DISK_BYTES = 8 << 20


@pytest.fixture(name="disk")
def _disk(agent: Agent) -> Iterator[str]:
    """Yield the agent's state directory, a file system of 8 MiB where we may mount one."""
    if os.geteuid() != 0:
        yield agent.state_dir
        return
    with tmpfs(agent.state_dir, _DISK_BYTES):
        yield agent.state_dir
        agent.end_processes()


def _log(agent: Agent, job_id: int) -> tuple[dict[int, bytes], list[Gap]]:
    chunks: dict[int, bytes] = {}
    gaps = []
    with agent.client() as client:
        for item in client.log_items(LogQuery(job_id)):
            match item:
                case Chunk():
                    chunks[item.offset] = item.data
                case Gap():
                    gaps.append(item)
    return chunks, gaps


def test_a_job_that_prints_more_than_fits(agent: Agent, disk: str) -> None:
    """It neither waits nor dies; its log is the head, a gap that says so, and the tail."""
    root = agent.root
    data = os.urandom(1 << 20)
    Path(f"{root}/data").write_bytes(data)
    program = (
        'for i in 1 2 3 4 5 6 7 8 9 10 11 12; do cat "$0/data"; done; echo >"$0/full"; '
        'until [ -e "$0/enough" ]; do echo more; sleep 0.02; done; echo the tail; exit 5'
    )
    ballast = fill(disk, leave_bytes=6 << 20)
    submit = ("submit", "--", "/bin/sh", "-c", program, root)
    job_id = int(agent.cli(*submit, check=True).stdout)
    wait_until(lambda: os.path.exists(f"{root}/full"), what="it has printed 12 MiB on a disk of 6")
    os.unlink(ballast)
    wait_until(
        lambda: len(list(Path(disk, "jobs", str(job_id)).glob("out-*.log"))) > 1,
        what="a segment after the gap",
    )
    Path(f"{root}/enough").touch()

    assert agent.cli("wait", "--timeout", "15s", str(job_id)).returncode == 5

    chunks, gaps = _log(agent, job_id)
    printed = data * 12
    head = b"".join(part for at, part in chunks.items() if at < len(printed))
    tail = b"".join(part for at, part in chunks.items() if at >= len(printed))
    assert len(head) > 4 << 20
    assert printed.startswith(head)
    assert [gap.reason for gap in gaps] == [GapReason.DISK_FULL]
    assert gaps[0].from_offset == len(head)
    assert tail.endswith(b"more\nthe tail\n")
    assert agent.show(job_id)["log_bytes"] == gaps[0].to_offset + len(tail)


def _check_log(agent: Agent, job_id: int, whole: bytes) -> None:
    """Demand that chunks and gaps tell of every byte, and of none wrongly."""
    chunks, gaps = _log(agent, job_id)
    place = 0
    for begin, end in sorted(
        [(offset, offset + len(data)) for offset, data in chunks.items()]
        + [(gap.from_offset, gap.to_offset) for gap in gaps]
    ):
        assert begin == place, f"nothing is told of the bytes from {place} to {begin}"
        place = end
    assert place == len(whole)
    assert all(whole[at : at + len(data)] == data for at, data in chunks.items())


def test_every_byte_is_there_or_in_a_gap(agent: Agent, disk: str) -> None:
    """Also when room comes and goes, and the shim is killed in the middle of a gap."""
    root = agent.root
    parts = [os.urandom(300_000) for _ in range(6)]
    for number, part in enumerate(parts):
        Path(f"{root}/part{number}").write_bytes(part)
    os.mkfifo(f"{root}/go")
    program = (
        'for i in 0 1 2 3 4 5; do until read -r _ <"$0/go"; do :; done; '
        'cat "$0/part$i"; echo >"$0/done$i"; done; exit 6'
    )
    job_id = int(agent.cli("submit", "--", "/bin/sh", "-c", program, root, check=True).stdout)
    for number in range(6):
        if number in {1, 4}:
            fill(disk, leave_bytes=100_000)
        if number == 2:
            shim = agent.shim_pid(job_id)
            agent.kill(shim)
            wait_until(
                lambda: agent.show(job_id)["shim_pid"] not in {None, shim},  # noqa: B023  # called at once
                what="a rescue shim",
            )
        if number in {3, 5}:
            os.unlink(f"{disk}/ballast")
        Path(f"{root}/go").write_bytes(b"go\n")
        done = f"{root}/done{number}"
        wait_until(lambda: os.path.exists(done), what=f"part {number} is printed")  # noqa: B023  # same

    assert agent.cli("wait", "--timeout", "15s", str(job_id)).returncode == 6

    _check_log(agent, job_id, b"".join(parts))


def test_an_end_on_a_full_disk_is_exact(court: Court, disk: str) -> None:
    """What the end needs room for was reserved at the submit."""
    jobs = [court.submit(way) for way in Way]
    for job_id in jobs:
        court.wait_runs(job_id)
        wait_until(lambda: court.agent.show(job_id)["log_bytes"] == 40_000, what="its first part")  # noqa: B023  # same
    fill(disk)
    for job_id in jobs:
        court.bring_to_end(job_id)

    listed = books.listed(court.agent)

    assert {(j["exit_code"], j["signal"], j["cause"]) for j in listed.values()} == {
        (way.exit_code, way.signal, way.cause) for way in Way
    }
    assert all(books.agrees(listed[i], books.record_of(court.agent, i)) for i in jobs)
    os.unlink(f"{disk}/ballast")
    books.check_all_over(court.agent)


def test_the_agent_killed_on_a_full_disk(court: Court, disk: str) -> None:
    """The next one starts there, and the jobs go on."""
    job_id = court.submit(Way.EXITS)
    court.wait_runs(job_id)
    wait_until(lambda: court.agent.show(job_id)["log_bytes"] == 40_000, what="its first part")
    fill(disk)
    court.agent.kill(court.agent.warden_pid(), court.agent.server_pid())

    said = court.agent.cli("ls", timeout=60)

    assert (said.returncode, said.stderr) == (0, "")
    os.unlink(f"{disk}/ballast")
    court.bring_to_end(job_id)
    court.judge()


def test_a_submit_on_a_full_disk_is_refused(court: Court, disk: str) -> None:
    """In one clear line, and nothing is left of it; running jobs go on, and later submits."""
    running = court.submit(Way.EXITS)
    court.wait_runs(running)
    wait_until(lambda: court.agent.show(running)["log_bytes"] == 40_000, what="its first part")
    fill(disk)
    before = _tree(disk)

    refused = court.agent.cli("submit", "--", "true")

    assert (refused.returncode, refused.stdout) == (1, "")
    assert len(refused.stderr.splitlines()) == 1
    assert "disk is full" in refused.stderr
    assert _tree(disk) == before
    assert court.state(running) == "running"
    os.unlink(f"{disk}/ballast")
    assert court.run(Way.EXITS) > running
    court.bring_to_end(running)
    court.judge()


def _tree(disk: str) -> set[str]:
    return {
        f"{where}/{name}"
        for part in ("jobs", "live")
        for where, directories, files in os.walk(f"{disk}/{part}")
        for name in (*directories, *files)
    }


def test_a_full_disk_gets_room_by_removing_a_job(court: Court, disk: str) -> None:
    """`rm` works where nothing else does."""
    data = os.urandom(3 << 20)
    Path(f"{court.agent.root}/data").write_bytes(data)
    court.agent.cli("run", "--", "cat", f"{court.agent.root}/data", check=True, timeout=60)
    fill(disk)
    assert court.agent.cli("submit", "--", "true").returncode == 1

    court.agent.cli("rm", "1", check=True)

    assert court.run(Way.EXITS) > 1
    court.judge()


def test_a_read_only_disk_is_said_in_one_line(court: Court, disk: str) -> None:
    """No agent starts there; once the disk takes writes again, nothing has changed."""
    court.run(Way.EXITS)
    court.agent.end_processes()
    set_read_only(disk, read_only=True)

    refused = court.agent.cli("submit", "--", "true")

    assert refused.returncode in {1, 69, 75}
    assert refused.stdout == ""
    assert len(refused.stderr.splitlines()) == 1
    assert "read-only" in refused.stderr.lower()
    set_read_only(disk, read_only=False)
    assert court.run(Way.EXITS) == 2
    court.judge()
