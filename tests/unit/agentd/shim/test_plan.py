"""The plan that a leader tells its shim."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.core.contract import JobStarted, decode
from agentd.core.job import JobSpec, ProcessId
from agentd.shim import plan
from agentd.shim.plan import Plan
from agentd.system import records
from agentd.system.records import PidRecord

NUMBERS = st.integers(-1, 1 << 62)
PATHS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=50)
PLANS = st.builds(Plan, *[NUMBERS] * 10, PATHS, st.binary(max_size=300))
SPEC = JobSpec(
    7, "0" * 32, "key", 5, ("true",), "/", {}, log_segment_bytes=100, log_retention_bytes=1000
)
RECORD = PidRecord(
    "boot", ProcessId(41, 900), ProcessId(42, 1000), 5, 6, host_oom_kills=3, cgroup="/c/job-7"
)


def plan_of(spec: JobSpec) -> Plan:
    """Return the plan made of the two files."""
    pidfile = json.loads(records.dump_pid(RECORD))
    return plan.make(json.loads(records.dump_spec(spec)), pidfile, 41)


@given(PLANS)
def test_a_plan_comes_back_as_it_was(proposal: Plan) -> None:
    """Whatever the announcement holds, spaces and newlines included."""
    assert plan.decode(proposal.encode()) == proposal


@given(st.binary(max_size=300).filter(lambda packet: not packet.startswith(b"plan")))
def test_what_is_no_plan_is_none(packet: bytes) -> None:
    """A plan says that it is one."""
    assert plan.decode(packet) is None


@pytest.mark.parametrize("packet", [b"", b"go", b'{"step":"execute"}'])
def test_a_report_and_a_gate_are_no_plans(packet: bytes) -> None:
    """Nor is the end of the talk."""
    assert plan.decode(packet) is None


def test_the_plan_holds_what_the_spec_and_the_pidfile_say() -> None:
    """Durations in nanoseconds, the leader by its identity."""
    made = plan_of(replace(SPEC, grace_s=1.5, timeout_s=2.5))

    assert (made.job_id, made.leader_pid, made.leader_start_ticks) == (7, 42, 1000)
    assert (made.grace_ns, made.timeout_ns) == (1_500_000_000, 2_500_000_000)
    assert made.ends_at_boot_ns == 6 + 2_500_000_000
    assert (made.segment_bytes, made.retention_bytes) == (100, 1000)
    assert (made.host_oom_kills, made.cgroup) == (3, "/c/job-7")
    assert decode(made.announcement) == JobStarted(7, 5, 42, 1000, 41)


def test_without_a_timeout_there_is_no_end_planned() -> None:
    """While a timeout of zero ends it at once."""
    assert plan_of(SPEC).ends_at_boot_ns is None
    assert plan_of(replace(SPEC, timeout_s=0.0)).ends_at_boot_ns == 6


def test_a_pidfile_of_an_older_agent_makes_a_plan() -> None:
    """Its job goes on under a rescue shim that knows no cgroup of it."""
    pidfile = json.loads(records.dump_pid(RECORD))
    del pidfile["cgroup"], pidfile["host_oom_kills"]

    made = plan.make(json.loads(records.dump_spec(SPEC)), pidfile, 41)

    assert (made.host_oom_kills, made.cgroup) == (-1, "")
    assert records.load_pid(json.dumps(pidfile).encode()) is not None
