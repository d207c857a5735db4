"""A job's own limit: who is innocent, who is stopped, and how."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from agentd.core.guard.model import (
    CameBack,
    Freeze,
    GuardPolicy,
    Hold,
    Kill,
    MemAction,
    Release,
    Tell,
    Terminate,
    Thaw,
    Trigger,
)
from agentd.core.guard.units import MIB, MS_NS, S_NS
from tests.helpers.guardsim import Sim, SimJob, gib, mib


def _verdicts(sim: Sim) -> list[Trigger]:
    return [act.verdict.trigger for act in sim.acts() if isinstance(act, Hold | Terminate | Kill)]


def test_a_job_below_its_limit_is_never_touched() -> None:
    """Resident sets at the limit prove innocence; no charge is even asked for."""
    sim = Sim().add(SimJob(1, gib(4), limit_bytes=gib(4))).run(30)

    assert sim.acts() == []
    assert all(sample.charge is None for look in sim.looks for sample in look.jobs.values())


def test_workers_that_share_memory_are_never_frozen() -> None:
    """Their resident sets are sixteen times what they hold: only the charge counts."""
    job = SimJob(1, gib(4), limit_bytes=gib(6), upper_factor=16)
    sim = Sim().add(job).run(30)

    assert sim.acts() == []


def test_charges_of_an_innocent_job_take_a_tenth_of_the_time_at_most() -> None:
    """Also of one that stands close below its limit, for ever."""
    job = SimJob(1, gib(6) - MIB, limit_bytes=gib(6), upper_factor=16)
    sim = Sim().add(job).run(10)

    spent_ns = sum(s.cost_ns for look in sim.looks for s in look.jobs.values() if s.charge)
    assert 0 < spent_ns <= 1.1 * S_NS


@pytest.mark.parametrize("gib_per_s", [0.05, 0.5, 1, 3, 5, 10])
def test_a_hog_stops_close_above_its_limit(gib_per_s: float) -> None:
    """By no more than 64 MiB or what it takes in 60 ms, whichever is more."""
    sim = Sim().add(SimJob(1, 0, gib(gib_per_s), limit_bytes=gib(4))).run(4 / gib_per_s + 3)

    job = sim.jobs[1]
    assert job.is_gone
    assert job.size_bytes - gib(4) <= max(mib(64), gib(gib_per_s) * 0.06)
    assert sim.names()[:2] == ["Freeze", "Terminate"]


def test_growth_by_copy_on_write_is_seen_although_resident_sets_stand_still() -> None:
    """Shared pages become private ones: the charge rises below an upper bound that does not."""
    job = SimJob(1, gib(4), limit_bytes=gib(6), upper_factor=4)
    sim = Sim().add(job).run(5)
    upper = int(job.size_bytes * job.upper_factor)
    for _ in range(4000):
        sim.look()
        sim.pass_time(max(sim.plan.after_ns, MS_NS // 5))
        if not job.is_stopped and not job.is_gone:
            job.size_bytes += int(gib(1) * max(sim.plan.after_ns, MS_NS // 5) / S_NS)
        job.upper_factor = upper / job.size_bytes
        if job.is_gone:
            break

    assert job.is_gone
    assert job.size_bytes - gib(6) <= mib(128)


def test_a_job_that_ignores_sigterm_and_grows_is_killed_by_the_memory_clock() -> None:
    """Its grace of an hour does not let it fill the host."""
    job = SimJob(1, 0, gib(2), limit_bytes=gib(4), ignores_term=True, grace_s=3600)
    sim = Sim().add(job).run(4)

    assert sim.names()[:3] == ["Freeze", "Terminate", "Kill"]
    assert job.is_gone
    assert job.size_bytes < gib(4) + mib(128)


def test_a_job_that_does_not_grow_any_more_has_its_grace() -> None:
    """It writes its checkpoint; nobody hastens it."""
    job = SimJob(1, 0, gib(1), limit_bytes=gib(4), most_bytes=gib(4) + mib(5), ignores_term=True)
    sim = Sim().add(job).run(12)

    assert sim.acts(Kill) == []
    assert len(sim.acts(Terminate)) == 1


def test_what_came_back_is_told_once_with_the_time_it_took() -> None:
    """The record of an act is complete when the memory is back."""
    sim = Sim().add(SimJob(1, 0, gib(1), limit_bytes=gib(4))).run(8)

    (back,) = sim.acts(CameBack)
    assert isinstance(back, CameBack)
    assert back.freed_bytes >= gib(4)
    assert back.took_ns < S_NS


def test_a_job_that_is_to_be_paused_is_held_and_never_released_by_the_guard() -> None:
    """Its own limit is the reason; the host's memory has nothing to do with it."""
    job = SimJob(1, 0, gib(1), limit_bytes=gib(4), action=MemAction.PAUSE)
    sim = Sim(policy=GuardPolicy(pause_limit_s=5)).add(job).run(60)

    assert sim.names() == ["Freeze", "Hold"]
    assert job.is_stopped


def test_a_job_that_its_user_resumed_is_judged_again_only_when_it_has_grown() -> None:
    """64 MiB, or a fiftieth of what it was."""
    job = SimJob(
        1, 0, gib(1), limit_bytes=gib(1), action=MemAction.PAUSE, most_bytes=gib(1) + mib(40)
    )
    sim = Sim().add(job).run(5)
    assert sim.names() == ["Freeze", "Hold"]

    held_bytes = job.size_bytes
    sim.resume_by_user(1)
    sim.run(10)
    assert sim.acts(Freeze, Hold) == sim.acts(Freeze, Hold)[:2]

    job.most_bytes = gib(3)
    sim.run(5)
    assert len(sim.acts(Hold)) == 2
    assert job.size_bytes > held_bytes + mib(64)


def test_a_job_that_may_go_over_its_limit_is_told_of_and_not_even_frozen() -> None:
    """Once, and again only after a minute and a tenth more."""
    job = SimJob(1, 0, gib(1), limit_bytes=gib(1), action=MemAction.WARN, most_bytes=gib(4))
    sim = Sim().add(job).run(70)

    tells = sim.acts()
    assert all(isinstance(act, Tell) and act.verdict is None for act in tells)
    assert len(tells) == 2
    job.rate_bytes_per_s = 0
    sim.run(200)
    assert len(sim.acts()) == 2


def test_a_job_that_was_measured_wrongly_goes_on() -> None:
    """Frozen, measured again, innocent: thawed."""
    sim = Sim().add(SimJob(1, gib(4) - mib(10), 0, limit_bytes=gib(4), upper_factor=2)).run(3)
    sim.jobs[1].size_bytes = gib(4) + mib(10)
    while not sim.acts(Freeze):
        sim.look()
        if not sim.acts(Freeze):
            sim.pass_time(max(sim.plan.after_ns, MS_NS))
    sim.jobs[1].size_bytes = gib(4) - mib(10)
    sim.run(3)

    assert sim.names() == ["Freeze", "Thaw"]
    assert not sim.jobs[1].is_stopped


def test_a_job_that_the_user_paused_is_left_alone() -> None:
    """It cannot grow, and it is not the guard's to let go."""
    sim = Sim().add(SimJob(1, gib(5), 0, limit_bytes=gib(4), upper_factor=1.0))
    sim.pause_by_user(1)
    sim.run(30)

    assert sim.acts() == []


def test_a_job_that_is_being_stopped_is_killed_only_if_it_grows_past_its_limit() -> None:
    """A ladder is under way: the memory clock alone applies."""
    calm = SimJob(1, gib(3), 0, limit_bytes=gib(4), ignores_term=True)
    wild = SimJob(2, gib(3), gib(1), limit_bytes=gib(4), ignores_term=True)
    sim = Sim().add(calm, wild).run(0.1)
    sim.stop_by_user(1, 10)
    sim.stop_by_user(2, 10)
    sim.run(4)

    assert sim.names() == ["Kill", "CameBack"]
    assert wild.is_gone
    assert not calm.is_gone


def test_a_charge_that_never_comes_convicts_nobody() -> None:
    """Asked for at leisure, and the job is not frozen for it."""
    sim = Sim().add(SimJob(1, gib(5), 0, limit_bytes=gib(4)))
    measure = sim._measure

    def blind() -> dict:
        return {job_id: replace(sample, charge=None) for job_id, sample in measure().items()}

    sim._measure = blind  # type: ignore[method-assign]  # a job whose smaps may not be read
    sim.run(20)

    assert sim.acts() == []
    assert len(sim.looks) < 150


def test_a_frozen_job_whose_charge_never_comes_is_thawed() -> None:
    """Within a few looks: nothing is forgotten."""
    sim = Sim().add(SimJob(1, 0, gib(1), limit_bytes=gib(4)))
    while not sim.acts(Freeze):
        sim.look()
        sim.pass_time(max(sim.plan.after_ns, MS_NS // 5))
    measure = sim._measure
    sim._measure = lambda: {  # type: ignore[method-assign]  # it became unreadable
        job_id: replace(sample, charge=None) for job_id, sample in measure().items()
    }
    for _ in range(5):
        sim.look()

    assert sim.acts(Thaw)


def test_two_jobs_over_their_limits_are_each_judged() -> None:
    """One verdict does not wait for the other."""
    sim = Sim().add(
        SimJob(1, 0, gib(1), limit_bytes=gib(3)), SimJob(2, 0, gib(1), limit_bytes=gib(3))
    )
    sim.run(6)

    assert _verdicts(sim).count(Trigger.OWN_LIMIT) >= 2
    assert sim.jobs[1].is_gone
    assert sim.jobs[2].is_gone


def test_a_guard_that_is_switched_off_releases_what_it_held() -> None:
    """And does nothing more, whatever grows."""
    job = SimJob(1, 0, gib(1), limit_bytes=gib(4), action=MemAction.PAUSE)
    sim = Sim().add(job).run(8)
    assert sim.names() == ["Freeze", "Hold"]

    sim.policy = GuardPolicy(enabled=False)
    sim.run(30)

    assert sim.names()[2:] == ["Release"]
    assert isinstance(sim.acts()[2], Release)
    assert not job.is_stopped
    assert set(sim.delays_ns[-10:]) == {S_NS}


@pytest.mark.parametrize("gib_per_s", [0.5, 2, 5])
def test_a_job_whose_measuring_takes_long_is_stopped_first_if_the_host_lost_as_much(
    gib_per_s: float,
) -> None:
    """It would grow on meanwhile: a bomb of hogs that share what they had before a fork."""
    job = SimJob(1, 0, gib(gib_per_s), limit_bytes=gib(2), upper_factor=3, reading_ns=300 * MS_NS)
    sim = Sim().add(job).run(4 / gib_per_s + 3)

    assert job.is_gone
    assert job.size_bytes - gib(2) <= max(mib(64), gib(gib_per_s) * 0.06)
    assert sim.names()[0] == "Freeze"
    assert "Terminate" in sim.names()


def test_one_who_shares_is_not_stopped_for_what_the_host_did_not_lose() -> None:
    """However long it takes to be measured, and however often it forks."""
    job = SimJob(1, gib(4), limit_bytes=gib(6), upper_factor=1, reading_ns=2 * S_NS)
    sim = Sim().add(job).run(3)
    for factor in (4, 8, 16):
        job.upper_factor = factor
        sim.run(5)

    assert sim.acts() == []


def test_one_who_was_stopped_for_what_another_took_goes_on_and_is_left_alone() -> None:
    """For fifty times as long as its measuring took."""
    job = SimJob(1, gib(1), limit_bytes=gib(2), upper_factor=4, reading_ns=200 * MS_NS)
    sim = Sim().add(job).run(2)
    sim.others_rate_bytes_per_s = gib(1)
    sim.run(8)

    freezes = [done.at_ns for done in sim.done if isinstance(done.act, Freeze)]
    assert set(sim.names()) <= {"Freeze", "Thaw"}
    assert all(later - earlier >= 10 * S_NS for earlier, later in pairwise(freezes))
    assert not job.is_stopped
