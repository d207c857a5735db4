"""The host's marks: whose doing it is, who has to go, and who never has."""

from __future__ import annotations

from itertools import pairwise

import pytest

from agentd.core.guard.model import (
    CameBack,
    Freeze,
    GuardPolicy,
    Hold,
    HostSample,
    Kill,
    Level,
    Marks,
    NextLook,
    Release,
    Tell,
    Terminate,
    Trigger,
)
from agentd.core.guard.units import GIB, MIB, MS_NS, S_NS
from agentd.core.guard.watermarks import watermarks
from tests.helpers.guardsim import Sim, SimJob, gib, mib

#: 3.6, 1.92, 1.2 and 0.6 GiB on the simulated host of 24 GiB.
LINES = watermarks(Marks(), 24 * GIB)


def _hog(sim: Sim, job_id: int, gib_per_s: float, calm_s: float = 3) -> None:
    sim.run(calm_s)
    sim.jobs[job_id].rate_bytes_per_s = gib(gib_per_s)


@pytest.mark.parametrize("gib_per_s", [0.2, 1, 2, 5, 10])
def test_a_hog_is_frozen_before_the_kill_mark(gib_per_s: float) -> None:
    """Whatever its speed, and it is the hog that is."""
    sim = Sim().add(SimJob(1, gib(1)), SimJob(2, gib(1)), SimJob(3, 0))
    _hog(sim, 3, gib_per_s)
    sim.run(20 / gib_per_s + 2)

    freeze = next(done for done in sim.done if isinstance(done.act, Freeze))
    assert freeze.act == Freeze(3)
    assert freeze.available_bytes > LINES.kill_bytes
    assert {act.job_id for act in sim.acts(Freeze) if isinstance(act, Freeze)} == {3}


def test_the_hog_is_held_and_nobody_ended_when_that_is_enough() -> None:
    """It does not grow any more: there is time for the user to decide."""
    sim = Sim().add(SimJob(1, gib(2)), SimJob(2, 0))
    _hog(sim, 2, 2)
    sim.run(60)

    assert [type(act) for act in sim.acts()] == [Tell, Freeze, Hold]


def test_crossing_the_warn_mark_is_told_once() -> None:
    """With the time that is left and who would be next."""
    sim = Sim().add(SimJob(1, 0, most_bytes=gib(19)))
    _hog(sim, 1, 1)
    sim.run(60)

    (tell,) = sim.acts()
    assert isinstance(tell, Tell)
    assert "exhausted in" in tell.text
    assert "job 1" in tell.text


def test_the_warning_comes_again_in_the_next_episode() -> None:
    """The level was left well above its mark in between."""
    sim = Sim().add(SimJob(1, gib(18.5)))
    for _ in range(2):
        sim.run(3)
        sim.others_bytes = gib(3)
        sim.run(2)
        sim.others_bytes = gib(1)
    sim.run(2)

    assert len(sim.acts(Tell)) == 2


def test_a_decline_that_others_bring_about_costs_no_job() -> None:
    """Not even at the kill mark; each level is told of once."""
    sim = Sim().add(SimJob(1, gib(2)), SimJob(2, gib(3)))
    sim.run(3)
    sim.others_rate_bytes_per_s = gib(2)
    sim.run(30)

    assert sim.available_bytes == 0
    assert {type(act) for act in sim.acts()} == {Tell}
    assert len(sim.acts()) <= 4


def test_a_fork_that_shares_does_not_make_a_job_guilty_of_the_others_doing() -> None:
    """Its resident sets jump by twelve GiB; it holds one."""
    sim = Sim().add(SimJob(1, gib(1)), SimJob(2, gib(2)))
    sim.run(3)
    sim.others_rate_bytes_per_s = gib(1)
    sim.run(5)
    sim.jobs[1].upper_factor = 13
    sim.run(30)

    assert sim.acts(Hold, Terminate, Kill) == []
    assert not sim.jobs[1].is_stopped


def test_at_the_term_mark_the_job_that_explains_the_decline_goes() -> None:
    """Held first; when others take the rest, what it took is given back."""
    sim = Sim().add(SimJob(1, gib(2)), SimJob(2, 0))
    _hog(sim, 2, 2)
    sim.run(12)
    assert sim.acts(Hold)
    sim.others_rate_bytes_per_s = mib(50)
    sim.run(30)

    ended = [act.verdict for act in sim.acts(Terminate) if isinstance(act, Terminate)]
    assert [(v.job_id, v.trigger) for v in ended] == [(2, Trigger.HOST)]
    assert not sim.jobs[1].is_gone


def test_one_victim_that_is_enough_is_the_only_one() -> None:
    """Memory comes back late; until then nobody else is ended."""
    sim = Sim().add(*(SimJob(n, gib(1)) for n in range(1, 6)), SimJob(9, 0))
    _hog(sim, 9, 4)
    sim.run(5)
    sim.others_rate_bytes_per_s = mib(200)
    sim.run(10)

    gone = [job.job_id for job in sim.jobs.values() if job.is_gone]
    assert gone == [9]
    assert len(sim.acts(CameBack)) == 1


def test_two_hogs_that_grow_alike_are_both_held() -> None:
    """Neither explains the decline alone; together they do."""
    sim = Sim().add(SimJob(1, gib(1)), SimJob(2, 0), SimJob(3, 0), SimJob(4, 0))
    sim.run(3)
    for job_id in (2, 3, 4):
        sim.jobs[job_id].rate_bytes_per_s = gib(1)
    sim.run(20)

    held = {act.verdict.job_id for act in sim.acts(Hold) if isinstance(act, Hold)}
    assert held == {2, 3, 4}
    assert sim.acts(Terminate, Kill) == []


def test_a_preemptible_job_goes_first_when_memory_must_come_back() -> None:
    """Held is who grows; ended is who was offered."""
    sim = Sim().add(SimJob(1, gib(4), preemptible=True), SimJob(2, 0))
    _hog(sim, 2, 2)
    sim.run(10)
    sim.others_rate_bytes_per_s = mib(100)
    sim.run(12)

    ended = [act.verdict.job_id for act in sim.acts(Terminate) if isinstance(act, Terminate)]
    assert ended == [1]


def test_a_held_job_goes_on_when_memory_is_back() -> None:
    """At one and a half pause marks and what it needs."""
    sim = Sim().add(SimJob(1, gib(4)), SimJob(2, 0, most_bytes=gib(17)))
    _hog(sim, 2, 2)
    sim.run(15)
    assert sim.acts(Hold)
    sim.jobs[1].size_bytes = 0
    sim.run(5)

    assert sim.names()[-1] == "Release"
    assert not sim.jobs[2].is_stopped


def test_the_next_hog_is_frozen_at_the_mark_although_the_level_was_not_left() -> None:
    """The one that was held is gone, and so is what it was to blame for."""
    sim = Sim().add(SimJob(1, gib(18.2)), SimJob(2, 0))
    _hog(sim, 2, 2)
    sim.run(5)
    assert sim.acts(Hold)
    sim.jobs[2].dies_ns = sim.at_ns
    sim.run(1)
    assert sim.memory.level == Level.WARN
    sim.add(SimJob(3, 0, rate_bytes_per_s=gib(2)))
    sim.run(5)

    freeze = next(done for done in sim.done if done.act == Freeze(3))
    assert freeze.available_bytes > LINES.pause_bytes - mib(64)


def test_another_hog_is_frozen_at_the_mark_after_memory_was_back_for_a_moment() -> None:
    """One is still held: what others have given back since is there to be lost anew."""
    sim = Sim().add(SimJob(1, gib(4)), SimJob(2, 0), SimJob(3, gib(1)))
    _hog(sim, 2, 2)
    sim.run(15)
    assert sim.acts(Hold)
    sim.jobs[1].size_bytes = gib(3.5)
    sim.run(1)
    sim.jobs[3].rate_bytes_per_s = gib(2)
    sim.run(5)

    freeze = next(done for done in sim.done if done.act == Freeze(3))
    assert freeze.available_bytes > LINES.pause_bytes - mib(64)


def test_held_jobs_go_on_one_at_a_time_the_longest_held_first() -> None:
    """What the first does is seen before the second goes on."""
    sim = Sim().add(SimJob(1, gib(4)), SimJob(2, gib(7)), SimJob(3, gib(7)))
    sim.run(3)
    sim.jobs[2].rate_bytes_per_s = gib(1)
    sim.run(5)
    sim.jobs[3].rate_bytes_per_s = gib(1)
    sim.run(5)
    held = [act.verdict.job_id for act in sim.acts(Hold) if isinstance(act, Hold)]
    for job in sim.jobs.values():
        job.rate_bytes_per_s = 0
    sim.jobs[1].size_bytes = 0
    sim.others_bytes = 0
    sim.run(10)

    releases = [done for done in sim.done if isinstance(done.act, Release)]
    assert [d.act.job_id for d in releases if isinstance(d.act, Release)] == held
    assert len(releases) == len(held) == 2
    assert releases[1].at_ns - releases[0].at_ns >= 2 * S_NS


def test_a_job_that_was_held_too_long_is_ended() -> None:
    """Memory did not come back."""
    sim = Sim(policy=GuardPolicy(pause_limit_s=20)).add(SimJob(1, gib(2)), SimJob(2, 0))
    _hog(sim, 2, 2)
    sim.run(60)

    (ended,) = sim.acts(Terminate)
    assert isinstance(ended, Terminate)
    assert ended.verdict.trigger is Trigger.PAUSED_TOO_LONG
    assert sim.jobs[2].is_gone


def test_a_job_that_its_user_resumed_is_not_held_again_for_half_a_minute() -> None:
    """The user knows more; only the term mark overrides it."""
    sim = Sim().add(SimJob(1, gib(2)), SimJob(2, 0, most_bytes=gib(18.3)))
    _hog(sim, 2, 2)
    sim.run(12)
    assert len(sim.acts(Hold)) == 1
    sim.resume_by_user(2)
    sim.run(20)

    assert len(sim.acts(Freeze)) == 1
    assert [act.job_id for act in sim.acts(Tell) if isinstance(act, Tell)].count(2) == 1


def test_a_job_that_its_user_resumed_goes_at_the_term_mark() -> None:
    """Half a minute of grace is for the pause mark alone."""
    sim = Sim().add(SimJob(1, gib(2)), SimJob(2, 0))
    _hog(sim, 2, 0.5)
    sim.run(45)
    assert len(sim.acts(Hold)) == 1
    sim.resume_by_user(2)
    sim.run(10)

    assert sim.acts(Terminate)
    assert sim.jobs[2].is_gone
    assert not sim.jobs[1].is_gone


def test_a_job_that_the_user_paused_may_be_ended_but_never_frozen_or_let_go() -> None:
    """At the term mark it is a victim like others."""
    sim = Sim().add(SimJob(1, gib(2)), SimJob(2, 0))
    _hog(sim, 2, 2)
    sim.run(9)
    sim.jobs[2].size_bytes = gib(17.5)
    sim.pause_by_user(2)
    sim.jobs[2].rate_bytes_per_s = 0
    sim.done.clear()
    sim.others_rate_bytes_per_s = mib(200)
    sim.run(15)

    about_2 = [type(act) for act in sim.acts() if not isinstance(act, Tell | CameBack)]
    assert about_2 == [Terminate]
    assert sim.jobs[2].is_gone


def test_stalls_count_as_the_pause_mark_only_below_the_warn_mark() -> None:
    """Alone they mean that somebody waits, not that memory runs out."""

    def crossed(available_gib: float) -> Level:
        return LINES.crossed(HostSample(1, 24 * GIB, gib(available_gib), under_pressure=True))

    assert crossed(10) is Level.FINE
    assert crossed(3) is Level.PAUSE
    assert crossed(1) is Level.TERM


def test_a_level_is_left_only_well_above_its_mark() -> None:
    """A quarter more: no flapping."""

    def level(before: Level, available_gib: float) -> Level:
        return LINES.level(before, HostSample(1, 24 * GIB, gib(available_gib)))

    assert level(Level.FINE, 3.5) is Level.WARN
    assert level(Level.WARN, 4.4) is Level.WARN
    assert level(Level.WARN, 4.6) is Level.FINE
    assert level(Level.TERM, 1.4) is Level.TERM
    assert level(Level.TERM, 1.6) is Level.PAUSE
    assert level(Level.FINE, 0.5) is Level.KILL


def test_a_guard_that_starts_on_a_full_host_goes_by_shares() -> None:
    """No baseline: who holds half of what is used explains it once it declines."""
    sim = Sim(others_bytes=gib(3)).add(SimJob(1, gib(18), gib(0.2)), SimJob(2, gib(1)))
    sim.run(10)

    assert {act.verdict.job_id for act in sim.acts(Hold) if isinstance(act, Hold)} == {1}


def test_a_guard_that_starts_on_a_host_that_others_filled_touches_nobody() -> None:
    """Our jobs hold little of it."""
    sim = Sim(others_bytes=gib(21.5), others_rate_bytes_per_s=mib(100)).add(SimJob(1, gib(1)))
    sim.run(20)

    assert sim.acts(Freeze, Hold, Terminate, Kill) == []


def test_a_hog_that_no_sigterm_ends_is_killed_at_the_kill_mark() -> None:
    """The memory clock: its grace of an hour is over then."""
    hog = SimJob(1, 0, ignores_term=True, grace_s=3600)
    sim = Sim().add(hog, SimJob(2, gib(1)))
    _hog(sim, 1, 2)
    sim.run(12)
    sim.others_rate_bytes_per_s = mib(300)
    sim.run(4)
    sim.others_rate_bytes_per_s = 0
    sim.run(10)

    assert hog.is_gone
    assert len(sim.acts(Kill)) == 1
    assert not sim.jobs[2].is_gone


def test_a_long_gap_between_looks_is_no_rate() -> None:
    """A machine that was paused for a minute has not lost its memory within a second."""
    sim = Sim().add(SimJob(1, gib(1), limit_bytes=gib(8))).run(5)
    sim.pass_time(60 * S_NS)
    sim.others_bytes += gib(10)
    sim.look()

    assert sim.memory.loss.rate_bytes_per_s() == 0
    assert sim.acts() == []


def test_dry_run_says_what_it_would_do_at_most_once_a_second() -> None:
    """And does nothing, whatever happens."""
    sim = Sim(policy=GuardPolicy(dry_run=True)).add(
        SimJob(1, 0, gib(1), limit_bytes=gib(4), most_bytes=gib(10)), SimJob(2, 0)
    )
    _hog(sim, 2, 1)
    sim.run(40)

    times_ns = [done.at_ns for done in sim.done]
    assert all(isinstance(act, Tell) for act in sim.acts())
    assert all(b - a >= S_NS for a, b in pairwise(times_ns))
    assert any(
        act.job_id == 1 and "would have been stopped" in act.text
        for act in sim.acts()
        if isinstance(act, Tell)
    )
    assert not sim.jobs[2].is_stopped


def test_a_job_that_takes_long_to_look_at_is_frozen_before_it_is_too_late() -> None:
    """Where a mark would be far behind after one more look it counts as crossed; it stays held."""
    sim = Sim(total_bytes=GIB, others_bytes=mib(200)).add(SimJob(1, look_ns=50 * MS_NS))
    sim.run(3)
    sim.jobs[1].rate_bytes_per_s = mib(500)
    sim.run(5)

    assert sim.names() == ["Tell", "Freeze", "Hold"]
    assert sim.available_bytes > watermarks(Marks(), GIB).pause_bytes


def test_who_grows_is_frozen_at_a_mark_before_all_are_looked_at_again() -> None:
    """Fifty processes on a slow machine take longer than what is left."""
    sim = Sim(total_bytes=GIB, others_bytes=mib(200)).add(SimJob(1, look_ns=20 * MS_NS))
    sim.run(3)
    sim.jobs[1].rate_bytes_per_s = mib(200)
    while sim.memory.level < Level.WARN:
        sim.look()
        sim.pass_time(sim.plan.after_ns)
    # From one look to the next, far too suddenly for any rate.
    sim.jobs[1].size_bytes += mib(70)
    sim.plan = NextLook(0, jobs=frozenset({1}))
    before_ns = sim.at_ns
    sim.look()

    assert sim.acts(Freeze) == [Freeze(1)]
    assert sim.at_ns == before_ns


def test_small_hosts_are_guarded_as_well() -> None:
    """One GiB of memory, marks of some ten MiB."""
    sim = Sim(total_bytes=GIB, others_bytes=200 * MIB).add(SimJob(1, 0))
    sim.run(3)
    sim.jobs[1].rate_bytes_per_s = gib(2)
    sim.run(10)

    freeze = next(done for done in sim.done if isinstance(done.act, Freeze))
    assert freeze.available_bytes > watermarks(Marks(), GIB).kill_bytes


def test_a_job_that_takes_all_at_once_is_measured_and_killed() -> None:
    """Below the kill mark there is no time for a grace."""
    sim = Sim().add(SimJob(1, gib(1)), SimJob(2, 0)).run(5)
    sim.jobs[2].size_bytes = gib(20.6)
    sim.run(2)

    assert [type(act) for act in sim.acts() if not isinstance(act, Tell)] == [
        Freeze,
        Kill,
        CameBack,
    ]
    assert not sim.jobs[1].is_gone


def test_a_decline_that_is_long_over_excuses_nobody() -> None:
    """Others filled the host last week; the job that takes the rest today is meant."""
    sim = Sim().add(SimJob(1, gib(1)), SimJob(2, 0)).run(5)
    sim.others_bytes = gib(20.4)
    sim.run(70)
    assert sim.memory.level is Level.WARN
    sim.jobs[2].rate_bytes_per_s = mib(300)
    sim.run(10)

    assert {act.verdict.job_id for act in sim.acts(Hold) if isinstance(act, Hold)} == {2}


def test_a_held_job_stays_to_blame_however_long_it_is_held() -> None:
    """A plateau that a hold has made is no end of the decline."""
    sim = Sim().add(SimJob(1, gib(2)), SimJob(2, 0))
    _hog(sim, 2, 2)
    sim.run(200)
    sim.others_rate_bytes_per_s = mib(50)
    sim.run(20)

    assert [a.verdict.job_id for a in sim.acts(Terminate) if isinstance(a, Terminate)] == [2]


def test_nobody_else_is_ended_while_memory_is_on_its_way_back() -> None:
    """The kernel takes more than a second to free it, and others go on taking."""
    sim = Sim(freeing_ns=1500 * MS_NS).add(SimJob(1, gib(2)), SimJob(2, gib(1), preemptible=True))
    sim.add(SimJob(3, 0)).run(5)
    sim.jobs[3].size_bytes = gib(18.7)
    sim.others_rate_bytes_per_s = mib(100)
    sim.run(4)

    assert [job.job_id for job in sim.jobs.values() if job.is_gone] == [3]
    assert len(sim.acts(CameBack)) == 1
