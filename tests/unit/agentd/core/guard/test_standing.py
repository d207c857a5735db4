"""The report: one row says one thing, and nothing that is not known."""

from __future__ import annotations

from agentd.core.guard.model import (
    Charge,
    GuardPolicy,
    HostSample,
    JobSample,
    Look,
    MemAction,
    Rules,
)
from agentd.core.guard.policy import decide
from agentd.core.guard.standing import JobStanding, Standing, standing
from agentd.core.guard.state import Charged, JobTrack, Memory
from agentd.core.guard.units import GIB, S_NS
from tests.helpers.guardsim import Sim, SimJob, gib, mib


def _stands(sim: Sim) -> Standing:
    return standing(sim.policy, sim.memory)


def _job(sim: Sim, job_id: int) -> JobStanding:
    return next(job for job in _stands(sim).jobs if job.job_id == job_id)


def test_what_was_not_looked_at_is_not_known() -> None:
    """None, and said in words; never a size of nothing."""
    sim = Sim()
    look = Look(S_NS, HostSample(S_NS, 24 * GIB, 20 * GIB), rules={1: Rules(1)})
    memory = decide(sim.policy, sim.memory, look).memory

    (job,) = standing(sim.policy, memory).jobs
    assert (job.upper_bytes, job.held_bytes) == (None, None)
    assert job.why == "not looked at yet"


def test_a_row_speaks_of_one_size() -> None:
    """Measured at 72 MiB and grown by 12 since: that is what it holds and would give back."""
    measured = JobSample(1, S_NS, mib(72), Charge(mib(72), mib(72)), 1)
    track = JobTrack(
        Rules(1, limit_bytes=mib(60)),
        sample=JobSample(1, S_NS + 1, mib(84), None, 1),
        charged=Charged(measured, mib(72), mib(72), 0),
    )

    (job,) = standing(GuardPolicy(), Memory(jobs={1: track})).jobs
    assert job.held_bytes == mib(84)
    assert job.why == "over its own limit by 24.0 MiB, would give back 84.0 MiB"


def test_a_job_that_is_stopped_has_no_rate() -> None:
    """Held by the guard or paused by its user; what it was before says nothing."""
    held = SimJob(1, 0, gib(1), limit_bytes=gib(1), action=MemAction.PAUSE)
    paused = SimJob(2, 0, gib(1), limit_bytes=gib(8))
    sim = Sim().add(held, paused).run(1.2)
    sim.pause_by_user(2)
    sim.run(0.3)
    assert "paused by the guard" in _job(sim, 1).why
    for job_id in (1, 2):
        assert _job(sim, job_id).rate_bytes_per_s == 0
        assert "growing" not in _job(sim, job_id).why


def test_the_row_tells_who_would_be_paused_and_who_ended_first() -> None:
    """The table goes by the order of ending; the pause takes only who grows."""
    sim = Sim().add(
        SimJob(1, gib(1), preemptible=True), SimJob(2, 0, most_bytes=gib(18)), SimJob(3, gib(1))
    )
    sim.run(3)
    sim.jobs[2].rate_bytes_per_s = gib(2)
    sim.run(8.5)

    assert "the first to be ended" in _job(sim, 1).why
    assert "the first to be paused" in _job(sim, 2).why
    assert "the first" not in _job(sim, 3).why


def test_the_youngest_is_told_so() -> None:
    """Of twelve alike it is the one that would go; nobody would give back nothing."""
    sim = Sim().add(*(SimJob(n, 0, started_at_ns=n) for n in range(1, 13))).run(2)

    first, *others = _stands(sim).jobs
    assert first.job_id == 12
    assert "the youngest" in first.why
    assert all("youngest" not in job.why for job in others)
    assert all("would give back" not in job.why for job in _stands(sim).jobs)


def test_an_end_of_memory_that_is_far_away_is_not_told() -> None:
    """Three quarters of an hour with nearly all free is noise."""
    sim = Sim(others_bytes=gib(1)).add(SimJob(1, mib(10)))
    sim.others_rate_bytes_per_s = mib(8)
    sim.run(10)
    assert _stands(sim).host_rate_bytes_per_s > 0
    assert _stands(sim).exhausted_after_s is None

    sim.others_rate_bytes_per_s = mib(100)
    sim.run(10)
    assert _stands(sim).exhausted_after_s is not None


def test_an_end_of_memory_is_told_close_to_the_marks_however_slow_it_comes() -> None:
    """Below two warn marks."""
    sim = Sim(others_bytes=gib(17.5)).add(SimJob(1, mib(10)))
    sim.others_rate_bytes_per_s = mib(2)
    sim.run(10)

    assert _stands(sim).exhausted_after_s is not None
