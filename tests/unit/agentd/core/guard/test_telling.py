"""What people are told of the host, and when they had better not be."""

from __future__ import annotations

from agentd.core.guard.model import (
    GuardPolicy,
    Hold,
    Level,
    Mark,
    Marks,
    MemAction,
    Release,
    Tell,
    Terminate,
    Trigger,
)
from agentd.core.guard.units import GIB, MS_NS, S_NS
from tests.helpers.guardsim import Sim, SimJob, gib, mib


def _of_host(sim: Sim) -> list[str]:
    return [act.text for act in sim.acts() if isinstance(act, Tell) and act.job_id is None]


def _not_ours(sim: Sim) -> list[str]:
    return [text for text in _of_host(sim) if "no job of this agent" in text]


def test_nobody_is_acquitted_while_a_job_is_just_gone() -> None:
    """Its user stopped it; its memory is not back yet, and what it took is not known any more."""
    sim = Sim(freeing_ns=800 * MS_NS).add(SimJob(1, gib(1)), SimJob(2, 0)).run(3)
    sim.jobs[2].size_bytes = gib(19.3)
    sim.stop_by_user(2, 0)
    sim.run(3)

    assert sim.jobs[2].is_gone
    assert _not_ours(sim) == []


def test_nobody_is_acquitted_in_an_episode_in_which_a_job_was_stopped() -> None:
    """The host stays low; the next episode is another matter."""
    sim = Sim().add(SimJob(1, gib(1)), SimJob(2, 0, gib(4), limit_bytes=gib(6))).run(1.7)
    assert sim.acts(Terminate)
    sim.others_bytes = gib(21.5)
    sim.run(8)
    assert sim.memory.level >= Level.PAUSE
    assert _not_ours(sim) == []

    sim.others_bytes = gib(2)
    sim.run(5)
    sim.others_rate_bytes_per_s = gib(2)
    sim.run(15)
    assert _not_ours(sim)


def test_the_warning_names_who_would_be_paused_and_who_would_be_ended() -> None:
    """Paused is who grows, ended who was offered: two jobs."""
    sim = Sim().add(SimJob(29, gib(1), preemptible=True), SimJob(31, 0, most_bytes=gib(18)))
    sim.run(3)
    sim.jobs[31].rate_bytes_per_s = gib(1)
    sim.run(30)

    (text,) = _of_host(sim)
    assert text.endswith("job 31 would be the first to be paused, job 29 the first to be ended")


def test_a_dry_run_tells_of_every_job_in_turn() -> None:
    """Nobody's trouble hides another's."""
    sim = Sim(policy=GuardPolicy(dry_run=True)).add(
        *(SimJob(n, gib(2), limit_bytes=gib(1)) for n in (1, 2, 3))
    )
    sim.run(12)

    told = [act.job_id for act in sim.acts() if isinstance(act, Tell)]
    assert {told.count(n) for n in (1, 2, 3)} <= {3, 4}
    assert set(told[:3]) == {1, 2, 3}


def test_a_dry_run_warns_of_the_host_although_a_job_is_over_its_limit() -> None:
    """Once, as ever."""
    sim = Sim(policy=GuardPolicy(dry_run=True)).add(SimJob(1, gib(2), limit_bytes=gib(1)))
    sim.run(3)
    sim.others_bytes = gib(19)
    sim.run(5)

    assert len([text for text in _of_host(sim) if "warn mark" in text]) == 1


def test_who_is_ended_for_the_host_is_told_why() -> None:
    """Among several: what put it first."""
    sim = Sim().add(SimJob(1, gib(4), preemptible=True), SimJob(2, 0)).run(3)
    sim.jobs[2].rate_bytes_per_s = gib(2)
    sim.run(10)
    sim.others_rate_bytes_per_s = mib(100)
    sim.run(12)

    held, *_ = [act.verdict for act in sim.acts(Hold) if isinstance(act, Hold)]
    ended, *_ = [act.verdict for act in sim.acts(Terminate) if isinstance(act, Terminate)]
    assert (held.job_id, held.why) == (2, "explains the decline")
    assert (ended.job_id, ended.why) == (1, "preemptible, the first to go")


def test_who_is_over_its_own_limit_needs_no_other_reason() -> None:
    """The line of the manual stays as it is."""
    sim = Sim().add(SimJob(1, 0, gib(1), limit_bytes=gib(1)), SimJob(2, gib(1))).run(4)

    (ended,) = [act.verdict for act in sim.acts(Terminate) if isinstance(act, Terminate)]
    assert ended.why == ""


def test_what_is_waited_for_is_told_of_a_job_that_was_paused_too_long() -> None:
    """One and a half pause marks and what it needs, not the mark itself."""
    sim = Sim(policy=GuardPolicy(pause_limit_s=20)).add(SimJob(1, gib(2)), SimJob(2, 0)).run(3)
    sim.jobs[2].rate_bytes_per_s = gib(2)
    sim.run(60)

    (ended,) = [act.verdict for act in sim.acts(Terminate) if isinstance(act, Terminate)]
    assert ended.trigger is Trigger.PAUSED_TOO_LONG
    assert ended.mark_bytes >= 24 * GIB * 0.08 * 1.5


def test_a_pause_mark_close_to_the_whole_still_lets_a_held_job_go_on() -> None:
    """What is waited for can always come: half way between the mark and all there is."""
    marks = Marks(
        warn=Mark(90, 90 * GIB), pause=Mark(80, 80 * GIB), term=Mark(5, GIB), kill=Mark(2, GIB // 2)
    )
    sim = Sim(policy=GuardPolicy(marks=marks), others_bytes=gib(1)).add(SimJob(1, 0)).run(3)
    sim.jobs[1].rate_bytes_per_s = gib(1)
    sim.run(8)
    assert sim.acts(Hold)
    sim.jobs[1].rate_bytes_per_s = 0
    sim.jobs[1].size_bytes = gib(1)
    sim.run(3)

    assert sim.acts(Release)


def test_after_a_pause_a_job_has_no_rate_of_before() -> None:
    """Neither while it is held nor when it goes on."""
    job = SimJob(1, 0, gib(1), limit_bytes=gib(1), action=MemAction.PAUSE)
    sim = Sim().add(job).run(2)
    assert sim.acts(Hold)
    assert sim.memory.jobs[1].upper.fastest_bytes_per_s(sim.at_ns) == 0
    job.rate_bytes_per_s = 0
    sim.resume_by_user(1)
    sim.run(2)

    assert sim.memory.jobs[1].upper.rate_bytes_per_s() == 0
    assert sim.at_ns > S_NS
