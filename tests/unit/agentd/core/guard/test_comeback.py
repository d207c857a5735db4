"""What came back of a job that was ended: its share of it, and never more than it held."""

from __future__ import annotations

from agentd.core.guard.model import CameBack, Terminate
from agentd.core.guard.units import MS_NS
from tests.helpers.guardsim import Sim, SimJob, gib, mib


def _backs(sim: Sim) -> list[CameBack]:
    return [act for act in sim.acts(CameBack) if isinstance(act, CameBack)]


def test_no_more_came_back_of_a_job_than_it_held() -> None:
    """Others free much at the same time; the host's numbers say what was seen."""
    job = SimJob(1, 0, mib(300), limit_bytes=mib(60))
    sim = Sim(freeing_ns=300 * MS_NS).add(job)
    while not sim.acts(Terminate):
        sim.look()
        sim.pass_time(max(sim.plan.after_ns, MS_NS))
    sim.others_bytes -= gib(1)
    sim.run(3)

    (back,) = _backs(sim)
    assert mib(60) < back.freed_bytes <= job.size_bytes
    assert back.host_available_bytes - back.host_before_bytes > mib(100)


def test_jobs_that_end_together_share_what_came_back() -> None:
    """Each by what it held; together not more than the host has gained."""
    small = SimJob(1, gib(1), gib(1), limit_bytes=gib(2))
    large = SimJob(2, gib(3), gib(1), limit_bytes=gib(4))
    sim = Sim(freeing_ns=100 * MS_NS).add(small, large).run(4)

    assert len(sim.acts(Terminate)) == 2
    freed = {back.job_id: back.freed_bytes for back in _backs(sim)}
    assert freed.keys() == {1, 2}
    assert freed[1] <= small.size_bytes
    assert freed[2] <= large.size_bytes
    assert freed[1] < freed[2]


def test_what_came_back_of_one_is_not_told_of_the_next_as_well() -> None:
    """The second is gone a little later, and the host has the first one's memory by then."""
    first = SimJob(1, gib(4), gib(1), limit_bytes=gib(5))
    second = SimJob(2, gib(4), gib(1), limit_bytes=gib(5), ignores_term=True, grace_s=0.4)
    second.most_bytes = gib(5) + mib(20)
    sim = Sim(freeing_ns=20 * MS_NS).add(first, second).run(5)

    backs = {back.job_id: back for back in _backs(sim)}
    gained = backs[2].host_available_bytes - min(b.host_before_bytes for b in backs.values())
    assert backs[1].freed_bytes + backs[2].freed_bytes <= gained + mib(1)
    assert backs[2].host_before_bytes >= backs[1].host_available_bytes - mib(50)
