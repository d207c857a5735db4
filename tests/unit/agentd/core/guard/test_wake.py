"""Jobs that are kept stopped and that somebody continues behind everybody's back."""

from __future__ import annotations

from itertools import pairwise

import pytest

from agentd.core.guard.model import (
    Freeze,
    GuardPolicy,
    Hold,
    HostSample,
    JobSample,
    Kill,
    Look,
    MemAction,
    Release,
    Rules,
    Tell,
    Terminate,
    Thaw,
)
from agentd.core.guard.standing import standing
from agentd.core.guard.state import JobTrack
from agentd.core.guard.units import S_NS
from agentd.core.guard.wake import is_asleep, is_awake, watch_stopped
from tests.helpers.guardsim import Sim, SimJob, gib, mib


def _told(sim: Sim) -> list[str]:
    return [act.text for act in sim.acts() if isinstance(act, Tell) and act.job_id is not None]


def test_a_held_job_that_somebody_continues_is_judged_again() -> None:
    """It grows, so it runs: told once, and held again when it has grown on."""
    job = SimJob(1, 0, mib(100), limit_bytes=mib(60), action=MemAction.PAUSE)
    sim = Sim().add(job).run(3)
    assert sim.names() == ["Freeze", "Hold"]
    sim.continue_from_outside(1)
    sim.run(6)

    assert job.is_stopped
    assert job.size_bytes < mib(300)
    assert len(sim.acts(Hold)) == 2
    assert _told(sim) == ["runs again although the guard held it"]
    assert sim.acts(Release, Thaw) == []


@pytest.mark.parametrize(
    ("action", "verdict"), [(MemAction.KILL, Terminate), (MemAction.PAUSE, Hold)]
)
def test_a_job_that_its_user_paused_and_somebody_continues_is_judged_by_its_limit(
    action: MemAction, verdict: type
) -> None:
    """Like one that runs; what everybody believes of it does not count."""
    job = SimJob(1, mib(50), 0, limit_bytes=mib(100), action=action)
    sim = Sim().add(job).run(1)
    sim.pause_by_user(1)
    sim.run(5)
    assert sim.acts() == []
    job.rate_bytes_per_s = mib(100)
    sim.continue_from_outside(1)
    sim.run(6)

    assert [type(act) for act in sim.acts(Freeze, Hold, Terminate, Kill)] == [Freeze, verdict]
    assert job.is_stopped or job.is_gone
    assert job.size_bytes < mib(260)


def test_a_hog_without_a_limit_that_somebody_continues_is_held_for_the_host() -> None:
    """Its user's pause is over, whoever ended it."""
    job = SimJob(1, gib(1))
    sim = Sim().add(job, SimJob(2, gib(1))).run(3)
    sim.pause_by_user(1)
    sim.run(3)
    job.rate_bytes_per_s = gib(1)
    sim.continue_from_outside(1)
    sim.run(25)

    assert [act.verdict.job_id for act in sim.acts(Hold) if isinstance(act, Hold)] == [1]
    assert job.is_stopped


def test_a_stopped_job_over_its_limit_is_left_alone_for_ever() -> None:
    """Whatever its look reads: a few MiB more or less are no growth."""
    job = SimJob(1, gib(2), 0, limit_bytes=gib(1))
    sim = Sim().add(job)
    sim.pause_by_user(1)
    for step in range(40):
        job.size_bytes = gib(2) + mib(step % 4)
        sim.run(1)

    assert sim.acts() == []


def test_a_job_that_has_stopped_growing_for_long_counts_as_paused_again() -> None:
    """Somebody may have stopped it again: it is not the guard's to freeze then."""
    job = SimJob(1, gib(1), mib(200), limit_bytes=gib(8), most_bytes=gib(3))
    sim = Sim().add(job)
    sim.pause_by_user(1)
    sim.run(2)
    sim.continue_from_outside(1)
    sim.run(5)
    assert "runs although it was paused" in standing(sim.policy, sim.memory).jobs[0].why
    sim.run(15)
    assert "runs although" not in standing(sim.policy, sim.memory).jobs[0].why
    job.limit_bytes = gib(2)
    sim.run(10)

    assert sim.acts() == []


def _seen(*samples: tuple[int, int]) -> JobTrack:
    """Return a paused job after looks a second apart at so many processes of so many MiB."""
    track = JobTrack(Rules(1))
    for number, (processes, size_mib) in enumerate(samples, start=1):
        at_ns = number * S_NS
        sample = JobSample(1, at_ns, mib(size_mib), None, processes)
        look = Look(at_ns, HostSample(at_ns, gib(24), gib(20)), paused=frozenset((1,)))
        track = watch_stopped(look, track, sample)
    return track


def test_a_process_that_is_found_late_is_no_growth() -> None:
    """It was there before; the job is stopped."""
    assert is_asleep(_seen((1, 100), (2, 200), (2, 200), (3, 300), (3, 300)))


def test_a_job_that_forks_on_and_on_runs() -> None:
    """So many are not found late, and one that grows beside is seen at once."""
    assert is_awake(_seen((1, 100), (2, 200), (3, 300), (4, 400), (5, 500)))
    assert is_awake(_seen((1, 100), (2, 200), (2, 210)))


def test_jobs_that_are_kept_stopped_cost_a_look_a_second() -> None:
    """At their resident sets alone."""
    held = SimJob(1, 0, gib(1), limit_bytes=gib(1), action=MemAction.PAUSE)
    sim = Sim(policy=GuardPolicy()).add(held, SimJob(2, gib(1), limit_bytes=gib(4)))
    sim.pause_by_user(2)
    sim.run(5)
    sim.looks.clear()
    sim.run(30)

    samples = [sample for look in sim.looks for sample in look.jobs.values()]
    for job_id in (1, 2):
        times_ns = [sample.at_ns for sample in samples if sample.job_id == job_id]
        assert 25 <= len(times_ns) <= 35
        assert max(b - a for a, b in pairwise(times_ns)) <= 1.5 * S_NS
    assert all(sample.charge is None for sample in samples)
