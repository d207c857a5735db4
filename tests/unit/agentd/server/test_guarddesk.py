"""What the server makes of the guard: its policy, its notices, its reports."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from agentd.core.contract import (
    GuardNotice,
    GuardReport,
    JobPaused,
    JobResumed,
    JobStopping,
    JobView,
    NoticeKind,
    ReportGuard,
    SetGuard,
)
from agentd.core.guard.model import GuardPolicy, Mark, Marks
from agentd.core.job import Cause, Ended, Paused, Running, Stopping
from agentd.errors import GuardSilentError
from agentd.paths import Paths
from agentd.server.runtime.guarddesk import KEPT_NOTICES
from tests.unit.agentd.server.places import make_paths
from tests.unit.agentd.server.test_requeue import BY_GUARD, WELL
from tests.unit.agentd.server.wardenpeer import DRAFT, Bench, bench

GIB = 1 << 30


@pytest.fixture(name="paths")
def _paths(tmp_path: Path) -> Paths:
    """Yield the places of an agent."""
    return make_paths(tmp_path)


def run_on(
    paths: Paths, test: Callable[[Bench], Coroutine[Any, Any, None]], *views: JobView
) -> None:
    """Run the test on a bench of its own."""

    async def on_bench() -> None:
        async with bench(paths, *views) as at:
            await test(at)

    asyncio.run(on_bench())


def why(at: Bench, job_id: int) -> str:
    """Return what people are told of the guard's part in how the job is."""
    return at.supervisor.remarks(at.supervisor.get(job_id)).guard_reason


def test_the_policy_goes_to_the_warden_as_numbers(paths: Paths) -> None:
    """Each mark as percent and cap."""

    async def test(at: Bench) -> None:
        marks = Marks(warn=Mark(20.0, 20 * GIB))
        at.supervisor.set_guard(GuardPolicy(dry_run=True, marks=marks, pause_limit_s=5.0))

        assert await at.heard(SetGuard) == SetGuard(
            enabled=True,
            dry_run=True,
            pause_limit_s=5.0,
            warn=(20.0, 20 * GIB),
            pause=(8.0, 8 * GIB),
            term=(5.0, 4 * GIB),
            kill=(2.5, 2 * GIB),
        )

    run_on(paths, test)


@pytest.mark.parametrize("kind", list(NoticeKind))
def test_what_the_guard_does_to_a_job_is_an_event_and_a_line(
    paths: Paths, kind: NoticeKind
) -> None:
    """With its own time and words; the state stays what it was."""

    async def test(at: Bench) -> None:
        job_id = await at.started()
        with capture_logs() as logs:
            at.tell(GuardNotice(kind, 77, "33.1 of 32 GiB", job_id))
            event = await at.happened(job_id, f"guard.{kind.value}")

        assert (event.detail, event.occurred_at_ns) == ("33.1 of 32 GiB", 77)
        assert isinstance(event.job.state, Running)
        (line,) = [line for line in logs if line["event"] == f"guard.{kind.value}"]
        assert (line["job_id"], line["text"]) == (job_id, "33.1 of 32 GiB")

    run_on(paths, test)


def test_a_dry_run_is_an_event_a_minute(paths: Paths) -> None:
    """It speaks every second; the history of the others is worth more. The log has it all."""

    async def test(at: Bench) -> None:
        job_id = await at.started()
        times = [second * 1_000_000_000 for second in range(1, 131)]
        with capture_logs() as logs:
            for time_ns in times:
                at.tell(GuardNotice(NoticeKind.WOULD_ACT, time_ns, "x", job_id))
            at.tell(GuardNotice(NoticeKind.WARNED, 5, "x", job_id))
            await at.happened(job_id, "guard.warned")
        assert at.events(job_id).count("guard.would_act") == 3
        assert len([line for line in logs if line["event"] == "guard.would_act"]) == len(times)

    run_on(paths, test)


def test_a_notice_told_twice_is_noted_once(paths: Paths) -> None:
    """In one server's life and over a restart."""
    notice = GuardNotice(NoticeKind.WARNED, 77, "low", 1)

    async def twice(at: Bench) -> None:
        await at.started()
        at.tell(notice, notice, replace(notice, occurred_at_ns=78))
        while at.events(1).count("guard.warned") < 2:
            await at.supervisor.changed(1).wait()

    async def again(at: Bench) -> None:
        at.tell(notice, replace(notice, occurred_at_ns=79))
        while len(found := [e for e in at.events(1) if e == "guard.warned"]) < 3:
            await at.supervisor.changed(1).wait()
        assert len(found) == 3

    run_on(paths, twice)
    run_on(paths, again, JobView(1, "running", 5, 42, 1000, 41))


def test_a_notice_may_come_after_the_jobs_end(paths: Paths) -> None:
    """Memory comes back when the job is over; the end stays as it is."""

    async def test(at: Bench) -> None:
        job_id = await at.ended(final=BY_GUARD)
        at.tell(GuardNotice(NoticeKind.CAME_BACK, 77, "12 GiB came back in 80 ms", job_id))
        await at.happened(job_id, "guard.came_back")
        assert at.supervisor.get(job_id).state == BY_GUARD
        assert at.supervisor.counts() == (0, 1)

    run_on(paths, test)


def test_a_report_holds_the_notices_of_both_sides(paths: Paths) -> None:
    """Each once, oldest first, the newest 50; a job nobody knows does no harm."""

    async def test(at: Bench) -> None:
        job_id = await at.started()
        ours = [GuardNotice(NoticeKind.WARNED, n, "the host is low") for n in range(100, 140)]
        theirs = [GuardNotice(NoticeKind.WARNED, n, "the host is low") for n in range(130, 200)]
        unknown = GuardNotice(NoticeKind.KILLED, 99, "gone", 4711)
        at.tell(unknown, *ours, GuardNotice(NoticeKind.PAUSED, 141, "x", job_id))
        await at.happened(job_id, "guard.paused")
        async with at.guarding(replace(WELL, notices=tuple(theirs))):
            report = await at.supervisor.guard_report()

        times = [notice.occurred_at_ns for notice in report.notices]
        assert times == sorted([*range(151, 200), 150])[-KEPT_NOTICES:]
        assert (report.enabled, report.host_total_bytes) == (True, 100)

    run_on(paths, test)


def test_many_who_ask_are_one_question(paths: Paths) -> None:
    """However many look, the warden guards."""

    async def test(at: Bench) -> None:
        asking = [asyncio.create_task(at.supervisor.guard_report()) for _ in range(100)]
        question = await at.heard(ReportGuard)
        at.tell(replace(WELL, number=question.number))
        answers = await asyncio.gather(*asking)
        assert {answer.number for answer in answers} == {question.number}
        await at.heard_nothing()

    run_on(paths, test)


def test_a_silent_guard_is_an_error_of_one_line(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its late answer is nobody's."""
    monkeypatch.setattr("agentd.server.runtime.guarddesk.ANSWER_S", 0.05)

    async def test(at: Bench) -> None:
        with pytest.raises(GuardSilentError, match="try again"):
            await at.supervisor.guard_report()
        late = await at.heard(ReportGuard)
        at.tell(replace(WELL, number=late.number))
        async with at.guarding(replace(WELL, host_total_bytes=200)):
            assert (await at.supervisor.guard_report()).host_total_bytes == 200

    run_on(paths, test)


def test_a_paused_job_says_whether_the_guard_did_it(paths: Paths) -> None:
    """Until it goes on, whoever lets it; the user's own pause has no reason."""

    async def test(at: Bench) -> None:
        job_id = await at.started()
        at.tell(JobPaused(job_id), GuardNotice(NoticeKind.PAUSED, 7, "33 of 32 GiB", job_id))
        await at.happened(job_id, "guard.paused")
        info = at.supervisor.get(job_id)
        assert at.supervisor.remarks(info).guard_reason == "paused by the guard: 33 of 32 GiB"
        at.tell(JobResumed(job_id))
        await at.state(job_id, Running)
        assert why(at, job_id) == ""
        at.tell(JobPaused(job_id))
        await at.state(job_id, Paused)
        assert why(at, job_id) == ""
        text = "paused by the guard: again"
        at.tell(GuardNotice(NoticeKind.PAUSED, 8, text, job_id))
        while at.events(job_id).count("guard.paused") < 2:
            await at.supervisor.changed(job_id).wait()
        assert why(at, job_id) == text

    async def after_a_restart(at: Bench) -> None:
        info = at.supervisor.get(1)
        assert at.supervisor.remarks(info).guard_reason == "paused by the guard: again"
        at.end(1)
        await at.state(1, Ended)

    run_on(paths, test)
    run_on(paths, after_a_restart, JobView(1, "paused", 5, 42, 1000, 41))


def test_a_job_that_the_guard_is_ending_says_why(paths: Paths) -> None:
    """For the whole of its grace; one that the user ends has no such reason."""

    async def test(at: Bench) -> None:
        ours, theirs = await at.started(), await at.started(replace(DRAFT, idempotency_key="b"))
        text = "stopped by the guard: 33 of 32 GiB"
        at.tell(GuardNotice(NoticeKind.TERMINATED, 7, text, ours))
        at.tell(JobStopping(ours, Cause.GUARD), JobStopping(theirs, Cause.USER))
        await at.state(ours, Stopping)
        await at.state(theirs, Stopping)
        assert (why(at, ours), why(at, theirs)) == (text, "")

    run_on(paths, test)


def test_the_kernels_layer_is_the_last_of_a_report(paths: Paths) -> None:
    """In force or not, and why; it stays when the guard is off, and the others do not."""

    async def layers(at: Bench, told: GuardReport) -> tuple[str, ...]:
        async with at.guarding(told):
            return (await at.supervisor.guard_report()).layers

    async def on(at: Bench) -> None:
        first, last = await layers(at, replace(WELL, layers=("sampling",)))
        assert first == "sampling"
        assert last.startswith("no kernel backstop")

    async def off(at: Bench) -> None:
        first, last = await layers(at, replace(WELL, enabled=False, layers=("sampling",)))
        assert first == "no sampling: the guard is off"
        assert last.startswith("no kernel backstop")

    run_on(paths, on)
    run_on(paths, off)
