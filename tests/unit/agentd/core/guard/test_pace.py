"""When the guard looks again, and at what."""

from __future__ import annotations

from itertools import pairwise

import pytest

from agentd.core.guard.model import GuardPolicy, Kill, Look
from agentd.core.guard.rates import Gauge
from agentd.core.guard.units import GIB, MS_NS, S_NS
from tests.helpers.guardsim import Sim, SimJob, gib, mib


def test_a_calm_host_without_jobs_is_looked_at_once_a_second() -> None:
    """Nothing could be acted on."""
    sim = Sim().run(10)

    assert set(sim.delays_ns) == {S_NS}


def test_jobs_without_limits_on_a_calm_host_are_looked_at_every_ten_seconds() -> None:
    """For reports, and to know later who has grown."""
    sim = Sim(total_bytes=256 * GIB).add(SimJob(1, gib(1)), SimJob(2, gib(1))).run(60)

    looks = sum(1 for look in sim.looks if look.jobs)
    assert 6 <= looks <= 9
    assert len(sim.looks) <= 70


def test_a_quiet_job_close_to_its_limit_is_looked_at_every_20_ms() -> None:
    """Not more often: a look at a tree is dear."""
    sim = Sim().add(SimJob(1, gib(4) - mib(1), limit_bytes=gib(4))).run(3)

    times_ns = [look.jobs[1].at_ns for look in sim.looks if 1 in look.jobs]
    gaps_ns = [b - a for a, b in pairwise(times_ns[1:])]
    assert min(gaps_ns) >= 20 * MS_NS
    assert max(gaps_ns) <= 25 * MS_NS


def test_a_growing_job_close_to_its_limit_is_looked_at_every_few_ms() -> None:
    """Its headroom asks for it."""
    sim = Sim().add(SimJob(1, gib(3), gib(1), limit_bytes=gib(4))).run(0.999)

    assert min(sim.delays_ns[3:]) == 2 * MS_NS


def test_a_job_far_below_its_limit_costs_a_look_a_second() -> None:
    """Half the time in which it could reach it is longer than that."""
    sim = Sim(total_bytes=256 * GIB).add(SimJob(1, gib(1), limit_bytes=gib(64))).run(30)

    assert sum(1 for look in sim.looks if look.jobs) <= 35


def test_jobs_that_began_one_after_the_other_are_soon_looked_at_together() -> None:
    """A look at one job costs the policy as much as one at a hundred."""
    sim = Sim(total_bytes=256 * GIB)
    for job_id in range(1, 51):
        sim.add(SimJob(job_id, mib(job_id), limit_bytes=gib(2))).run(0.03)
    sim.run(5)
    before = len(sim.looks)
    sim.run(10)

    assert len(sim.looks) - before <= 4 * 10


def test_a_sudden_rise_is_seen_before_the_next_look_is_due() -> None:
    """The host's memory tells of it, and is read in between."""
    sim = Sim(total_bytes=256 * GIB).add(SimJob(1, mib(1), limit_bytes=gib(2))).run(10)
    assert sim.delays_ns[-1] > 400 * MS_NS
    sim.jobs[1].rate_bytes_per_s = gib(8)
    sim.run(2)

    (kill,) = sim.acts(Kill)
    assert isinstance(kill, Kill)
    assert kill.verdict.held_bytes < gib(3)


def test_the_next_look_at_the_host_is_half_its_headroom_away() -> None:
    """By the floor of four GiB a second, as long as nothing goes faster."""
    sim = Sim(others_bytes=gib(18)).add(SimJob(1, gib(1)))
    for _ in range(4):
        sim.look()
        sim.pass_time(max(sim.plan.after_ns, MS_NS))

    headroom_bytes = sim.looks[-1].host.available_bytes - int(24 * GIB * 0.08)
    planned_ns = sim.delays_ns[-1]
    assert planned_ns <= headroom_bytes * S_NS // (4 * GIB) // 2 + MS_NS


@pytest.mark.parametrize("gib_per_s", [3, 6, 12])
def test_a_faster_decline_is_looked_at_sooner(gib_per_s: float) -> None:
    """Twice the fastest rate of the last two seconds, and half the time it gives."""
    sim = Sim(total_bytes=256 * GIB).add(SimJob(1, gib(1))).run(3)
    sim.others_rate_bytes_per_s = gib(gib_per_s)
    sim.run(10)

    headroom_bytes = sim.looks[-1].host.available_bytes - gib(8)
    rate = max(gib(4), 2 * gib(gib_per_s))
    assert sim.delays_ns[-1] <= max(2 * MS_NS, headroom_bytes * S_NS // rate // 2) + MS_NS


def test_a_survey_that_is_dear_is_asked_for_less_often() -> None:
    """A quarter of the time at most, also close to the marks."""
    sim = Sim(others_bytes=gib(15)).add(*(SimJob(n, mib(60)) for n in range(100))).run(5)

    spent_ns = sum(s.cost_ns for look in sim.looks for s in look.jobs.values())
    assert spent_ns <= 0.3 * 5 * S_NS


def test_a_guard_that_is_off_looks_once_a_second() -> None:
    """For the report alone; at the jobs every ten seconds."""
    sim = Sim(policy=GuardPolicy(enabled=False)).add(SimJob(1, gib(1), gib(1))).run(30)

    assert set(sim.delays_ns) == {S_NS}
    assert 2 <= sum(1 for look in sim.looks if look.jobs) <= 5


def test_a_rate_is_the_fastest_of_two_seconds_and_forgotten_after() -> None:
    """Growth that is over does not keep the guard awake."""
    gauge = Gauge().seen(0, 0).seen(100 * MS_NS, gib(1)).seen(200 * MS_NS, gib(1))

    assert gauge.fastest_bytes_per_s(200 * MS_NS) == gib(10)
    assert gauge.seen(3 * S_NS, gib(1)).fastest_bytes_per_s(3 * S_NS) == 0


def test_the_told_rate_goes_by_the_last_second() -> None:
    """Not by the last two milliseconds."""
    gauge = Gauge()
    for step in range(1001):
        gauge = gauge.seen(step * 2 * MS_NS, step * mib(2))

    assert gauge.rate_bytes_per_s() == pytest.approx(gib(1000 / 1024), rel=0.05)
    assert len(gauge.points) < 60


def test_two_points_at_once_are_no_rate() -> None:
    """Nothing divides by nothing."""
    gauge = Gauge().seen(5, 0).seen(5, gib(1)).seen(6, gib(1))

    assert gauge.rate_bytes_per_s() == 0
    assert gauge.fastest_bytes_per_s(6) == 0


def test_a_job_that_is_gone_is_forgotten() -> None:
    """Whatever was known of it."""
    sim = Sim().add(SimJob(1, gib(1), limit_bytes=gib(2))).run(2)
    del sim.jobs[1]
    sim.look()

    assert isinstance(sim.looks[-1], Look)
    assert sim.memory.jobs == {}
