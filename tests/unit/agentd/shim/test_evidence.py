"""What a shim finds out about an end that was not asked for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from agentd.core.job import Cause, JobSpec
from agentd.shim import evidence
from agentd.shim.evidence import Evidence, Verdict
from agentd.shim.plan import Plan
from agentd.system import cgroups, jobdir, records
from agentd.system.clock import boot_id
from tests.helpers.cgroupfs import stand_in

KILLED = 9
EXITED = 7 << 8
SPEC = JobSpec(7, "0" * 32, "key", 5, ("true",), "/", {}, mem_limit_bytes=32 << 30)
BY_LIMIT = "low 0\nhigh 0\nmax 5\noom 1\noom_kill 3\noom_group_kill 1\n"
BY_HOST = "low 0\nhigh 0\nmax 0\noom 0\noom_kill 3\noom_group_kill 1\n"
BY_NOBODY = "low 0\nhigh 0\nmax 5\noom 0\noom_kill 0\n"


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in the directory of a job with a limit."""
    directory = tmp_path / "7"
    jobdir.create(str(directory), SPEC)
    monkeypatch.chdir(directory)


def plan(cgroup: str = "", host_oom_kills: int = -1) -> Plan:
    """Return the plan of a job that began when so many had been killed."""
    return Plan(7, 42, 1000, 5, 6, 7, -1, 100, 1000, host_oom_kills, cgroup, b"")


def write_verdict(**fields: object) -> None:
    """Write what the guard would write."""
    body = {"action": "kill", "reason": "33.1 of 32 GiB", "boot_id": boot_id(), **fields}
    Path("verdict.json").write_text(json.dumps(body), encoding="utf-8")


@pytest.mark.parametrize("action", ["terminate", "kill"])
def test_a_deadly_verdict_is_found(action: str) -> None:
    """With its reason; more fields do no harm."""
    write_verdict(action=action, rate_bytes_per_s=5)
    assert evidence.gather(plan(), EXITED) == Evidence(Verdict(action, "33.1 of 32 GiB"))


@pytest.mark.parametrize(
    "fields",
    [{"action": "pause"}, {"boot_id": "another"}, {"reason": 5}, {"action": ["kill"]}],
    ids=str,
)
def test_any_other_verdict_is_none(fields: dict[str, object]) -> None:
    """One that ends nobody, one of another boot, one of somebody else's making."""
    write_verdict(**fields)
    assert evidence.deadly_verdict() is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"action":"kill"}', "\udcff"], ids=repr)
def test_a_torn_verdict_costs_the_reason_alone(text: str) -> None:
    """Nothing is raised."""
    Path("verdict.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert evidence.deadly_verdict() is None


@pytest.mark.parametrize(
    ("events", "kernel"),
    [
        (
            BY_LIMIT,
            (
                Cause.GUARD,
                "stopped by the kernel: over its limit of 32.0 GiB (memory.max 33.6 GiB)",
            ),
        ),
        (BY_HOST, (Cause.GUARD, "stopped by the kernel: the host was out of memory")),
        (BY_NOBODY, None),
    ],
    ids=["its limit", "the host", "nobody"],
)
def test_the_cgroup_tells_who_killed(
    tmp_path: Path, events: str, kernel: tuple[str, str] | None
) -> None:
    """Exactly, whatever the counters of the host say; and the peak."""
    stand_in(tmp_path / "cg", peak_bytes=4096, events=events)
    found = evidence.gather(plan(f"{tmp_path}/cg", host_oom_kills=0), KILLED)
    assert found == Evidence(None, kernel, 4096)


def test_only_a_sigkill_can_be_the_kernels(tmp_path: Path) -> None:
    """One of the job's processes was killed, and the job knew what to do."""
    stand_in(tmp_path / "cg", peak_bytes=4096, events=BY_LIMIT)
    assert evidence.gather(plan(f"{tmp_path}/cg"), EXITED) == Evidence(None, None, 4096)


def test_without_a_cgroup_the_host_is_asked() -> None:
    """A kill on this host since the start makes it probable, none makes it impossible."""
    now = cgroups.host_oom_kills()
    assert now is not None

    # The counters only grow: no more than that is sure on a machine that others use.
    found = evidence.gather(plan("/no/such", host_oom_kills=now - 1), KILLED).kernel
    assert found is not None
    assert found[0] == Cause.UNKNOWN
    assert found[1].startswith("killed by SIGKILL, probably by the kernel's out-of-memory killer")
    assert evidence.gather(plan("", host_oom_kills=now + 9), KILLED) == Evidence()
    assert evidence.gather(plan("", host_oom_kills=-1), KILLED) == Evidence()


def test_without_a_readable_spec_the_limit_is_left_out(tmp_path: Path) -> None:
    """Nothing is raised: the end has to be written."""
    stand_in(tmp_path / "cg", events=BY_LIMIT)
    Path("spec.json").write_text("{", encoding="ascii")
    found = evidence.gather(plan(f"{tmp_path}/cg"), KILLED)
    assert found.kernel is not None
    Path("spec.json").write_bytes(records.dump_spec(replace(SPEC, mem_limit_bytes=None)))
    assert evidence.gather(plan(f"{tmp_path}/cg"), KILLED).kernel is not None
