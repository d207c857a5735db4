"""What the guard says, what it refuses, whom it chooses: the small pure parts."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from agentd.core.guard import explain
from agentd.core.guard.adopt import adopt, was_ending, was_frozen, was_held
from agentd.core.guard.blame import Blame
from agentd.core.guard.choose import smallest_set, victim_order
from agentd.core.guard.model import (
    CameBack,
    Charge,
    GuardPolicy,
    Hold,
    JobSample,
    Kill,
    Level,
    Mark,
    Marks,
    MemAction,
    Release,
    Rules,
    Terminate,
    Thaw,
    Trigger,
    Verdict,
)
from agentd.core.guard.standing import standing
from agentd.core.guard.state import Charged, JobTrack, Memory
from agentd.core.guard.units import GIB, MIB, MS_NS, S_NS, duration_text, share_text, size_text
from agentd.core.guard.watermarks import check_marks
from agentd.errors import InvalidSpecError
from tests.helpers.guardsim import Sim, SimJob, gib, mib

VERDICT = Verdict(
    job_id=7,
    trigger=Trigger.OWN_LIMIT,
    level=Level.FINE,
    held_bytes=gib(33.1),
    freeable_bytes=gib(33.1),
    limit_bytes=gib(32),
    rate_bytes_per_s=2_100_000_000,
    host_total_bytes=gib(64),
    host_available_bytes=gib(1.9),
    host_rate_bytes_per_s=2_000_000_000,
)
HOST = replace(
    VERDICT,
    trigger=Trigger.HOST,
    level=Level.TERM,
    held_bytes=gib(18.3),
    limit_bytes=None,
    host_total_bytes=gib(24),
    host_available_bytes=gib(1.1),
    mark_bytes=gib(1.2),
)

# Words.


def test_a_job_over_its_limit_reads_as_people_expect() -> None:
    """The line of the manual."""
    assert explain.reason(VERDICT) == (
        "stopped by the guard: 33.1 of 32 GiB, growing 2.1 GB/s, host had 1.9 GiB left"
    )
    assert explain.reason(VERDICT, "paused").startswith("paused by the guard: 33.1 of 32 GiB")


def test_a_host_that_runs_out_reads_as_people_expect() -> None:
    """With the mark, and what the job held."""
    assert explain.reason(HOST) == (
        "stopped by the guard: host had 1.1 of 24 GiB left (term mark 1.2), "
        "this job held 18.3 GiB, growing 2.1 GB/s"
    )


def test_a_job_that_was_paused_too_long_is_told_so() -> None:
    """And that memory did not come back."""
    verdict = replace(
        HOST, trigger=Trigger.PAUSED_TOO_LONG, rate_bytes_per_s=0, mark_bytes=gib(2.88)
    )
    text = explain.reason(verdict)

    assert text == (
        "stopped by the guard: paused for long and memory did not come back, "
        "host had 1.1 of 24 GiB left and 2.9 were waited for, this job held 18.3 GiB"
    )


def test_a_job_that_does_not_grow_is_not_said_to() -> None:
    """A few kilobytes a second are nothing."""
    assert "growing" not in explain.reason(replace(VERDICT, rate_bytes_per_s=999))


def test_two_sizes_that_differ_never_read_alike() -> None:
    """`32.0 of 32 GiB` would explain nothing."""
    assert share_text(gib(32) + mib(20), gib(32)) == "32.02 of 32 GiB"
    assert share_text(gib(32), gib(32)) == "32.0 of 32 GiB"
    assert share_text(mib(600), mib(512)) == "600.0 of 512 MiB"


@pytest.mark.parametrize(
    ("size_bytes", "text"), [(0, "0.0 B"), (1536, "1.5 KiB"), (gib(1.9), "1.9 GiB")]
)
def test_sizes_read_well(size_bytes: int, text: str) -> None:
    """One digit after the point."""
    assert size_text(size_bytes) == text


@pytest.mark.parametrize(
    ("duration_s", "text"), [(0.44, "0.4 s"), (12.3, "12 s"), (600, "10 min"), (10800, "3 h")]
)
def test_durations_read_well(duration_s: float, text: str) -> None:
    """To the precision that matters."""
    assert duration_text(duration_s) == text


def test_what_came_back_reads_well() -> None:
    """What the host had and has: others give and take at the same time."""
    assert explain.came_back(CameBack(7, gib(18.2), 420 * MS_NS, gib(19), gib(1.8))) == (
        "the host had 1.8 GiB available, 19.0 GiB after 0.4 s"
    )


def test_what_the_host_had_never_reads_like_the_mark_it_was_below() -> None:
    """And which mark that was is said."""
    verdict = replace(
        HOST,
        level=Level.PAUSE,
        host_total_bytes=gib(23.5),
        host_available_bytes=gib(22.38),
        mark_bytes=gib(22.4),
    )

    assert "host had 22.38 of 23.5 GiB left (pause mark 22.40), " in explain.reason(verdict)


def test_the_reason_of_an_act_for_the_host_says_why_this_job() -> None:
    """At the end; the rest reads as ever."""
    assert explain.reason(replace(HOST, why="preemptible, the first to go")) == (
        "stopped by the guard: host had 1.1 of 24 GiB left (term mark 1.2), "
        "this job held 18.3 GiB, growing 2.1 GB/s, preemptible, the first to go"
    )


def test_a_dry_run_does_not_name_the_job_of_its_notice() -> None:
    """Who reads it sees the job beside it."""
    assert explain.would_text("stopped", VERDICT).startswith(
        "would have been stopped: 33.1 of 32 GiB"
    )


def test_free_swap_is_worth_a_quarter_in_warnings() -> None:
    """It is slow; and memory that does not shrink lasts for ever."""
    assert explain.exhausted_after_s(gib(2), gib(4), gib(1)) == 3.0
    assert explain.exhausted_after_s(gib(2), gib(4), 0) is None


# Marks.


def test_the_default_marks_make_sense_on_hosts_of_all_sizes() -> None:
    """From half a GiB to twelve TiB."""
    check_marks(Marks())
    for exponent in range(15):
        check_marks(Marks(), 512 * MIB << exponent)


@pytest.mark.parametrize(
    ("field", "mark"),
    [
        ("warn", Mark(math.nan, GIB)),
        ("warn", Mark(math.inf, GIB)),
        ("pause", Mark(-1.0, GIB)),
        ("pause", Mark(0.0, GIB)),
        ("warn", Mark(100.5, 16 * GIB)),
        ("term", Mark(5.0, 0)),
        ("kill", Mark(2.5, -1)),
        ("term", Mark(9.0, 4 * GIB)),
        ("kill", Mark(5.0, 2 * GIB)),
        ("kill", Mark(2.5, 5 * GIB)),
    ],
)
def test_a_mark_that_makes_no_sense_is_refused_by_name(field: str, mark: Mark) -> None:
    """NaN, negative, more than there is, out of order."""
    marks = replace(Marks(), **{field: mark})

    with pytest.raises(InvalidSpecError, match=rf"^guard\.{field}"):
        check_marks(marks)


def test_marks_that_meet_on_this_host_are_refused() -> None:
    """Both caps are in order, but here only one mark is left of the two."""
    marks = replace(Marks(), warn=Mark(50.0, 8 * GIB), pause=Mark(40.0, 7 * GIB))
    check_marks(marks, 16 * GIB)

    with pytest.raises(InvalidSpecError, match=r"^guard\.pause"):
        check_marks(replace(marks, pause=Mark(50.0, 8 * GIB)), 16 * GIB)


# Victims.


def _track(job_id: int, size_gib: float, **rules: object) -> JobTrack:
    size_bytes = gib(size_gib)
    sample = JobSample(job_id, 1, size_bytes, Charge(size_bytes, size_bytes), 1)
    return JobTrack(
        Rules(job_id, **rules),  # type: ignore[arg-type]  # a table's row
        sample=sample,
        charged=Charged(sample, size_bytes, size_bytes, 0),
    )


def _order(*tracks: JobTrack, grown: dict[int, float] | None = None) -> list[int]:
    grown_bytes = {job_id: gib(size) for job_id, size in (grown or {}).items()}
    blamed = Blame(gib(10), grown_bytes, is_ours=bool(grown))
    return [track.rules.job_id for track in victim_order(tracks, blamed)]


def test_over_its_own_limit_comes_first_by_overuse() -> None:
    """Before a preemptible one that explains everything."""
    order = _order(
        _track(1, 9, preemptible=True),
        _track(2, 5, limit_bytes=gib(4)),
        _track(3, 5, limit_bytes=gib(3)),
        grown={1: 9},
    )
    assert order == [3, 2, 1]


def test_then_preemptible_then_who_explains_then_the_youngest_then_the_largest() -> None:
    """One after the other."""
    order = _order(
        _track(1, 1, started_at_ns=5),
        _track(2, 2, started_at_ns=5),
        _track(3, 9, started_at_ns=4),
        _track(4, 1, started_at_ns=1),
        _track(5, 1, preemptible=True),
        grown={4: 5, 3: 1},
    )
    assert order == [5, 4, 2, 1, 3]


@pytest.mark.parametrize(
    ("sizes", "needed", "chosen"),
    [
        ((1, 20), 5, [1]),
        ((6, 20), 5, [0]),
        ((1, 2, 3), 5, [1, 2]),
        ((1, 2, 3), 6, [0, 1, 2]),
        ((4, 1, 1), 5, [0, 1]),
        ((1, 3, 2), 50, [1]),
        ((0, 3), 1, [1]),
        ((), 1, []),
    ],
)
def test_the_set_holds_nobody_whom_the_others_could_do_without(
    sizes: tuple[int, ...], needed: int, chosen: list[int]
) -> None:
    """And if all do not do, one goes and what came back decides."""
    tracks = [_track(number, size) for number, size in enumerate(sizes)]

    assert [t.rules.job_id for t in smallest_set(tracks, gib(needed))] == chosen


# Reports.


def test_the_report_puts_the_next_victim_first_and_says_why() -> None:
    """One line each."""
    sim = Sim().add(
        SimJob(1, gib(1)), SimJob(2, gib(1), preemptible=True), SimJob(3, gib(1), gib(0.1))
    )
    sim.run(2)
    stands = standing(sim.policy, sim.memory, {2: "sweep"})

    assert stands.jobs[0].job_id == 2
    assert stands.jobs[0].name == "sweep"
    assert "preemptible" in stands.jobs[0].why
    assert all("\n" not in job.why and "would give back" in job.why for job in stands.jobs)
    assert stands.level is Level.FINE
    assert stands.watermarks.kill_bytes == int(24 * GIB * 0.025)
    assert stands.exhausted_after_s is not None


def test_there_is_a_report_before_the_first_look() -> None:
    """Empty."""
    assert standing(GuardPolicy(), Memory()).jobs == ()


# A new warden.


def test_a_job_that_was_frozen_when_the_warden_was_killed_is_judged_at_once() -> None:
    """Innocent: it goes on; guilty: the verdict of the last one is spoken."""
    innocent = SimJob(1, gib(1), limit_bytes=gib(2), is_stopped=True)
    guilty = SimJob(2, gib(3), limit_bytes=gib(2), is_stopped=True)
    sim = Sim().add(innocent, guilty)
    for job_id in (1, 2):
        sim.memory = adopt(sim.memory, job_id, was_frozen(sim.at_ns - MS_NS))
    sim.run(0.1)

    assert sim.acts(Thaw) == [Thaw(1)]
    assert [a.verdict.job_id for a in sim.acts(Terminate) if isinstance(a, Terminate)] == [2]
    assert sim.acts(Hold) == []


def test_a_job_that_was_held_goes_on_when_memory_is_back() -> None:
    """Held for the host by the last warden."""
    sim = Sim().add(SimJob(7, gib(1), is_stopped=True))
    sim.memory = adopt(sim.memory, 7, was_held(HOST, sim.at_ns - S_NS))
    sim.run(3)

    assert sim.acts() == [Release(7)]


def test_a_job_that_was_held_for_its_own_limit_stays_so() -> None:
    """Only its user resumes it."""
    job = SimJob(7, gib(33.1), limit_bytes=gib(32), action=MemAction.PAUSE, is_stopped=True)
    sim = Sim(total_bytes=gib(64)).add(job)
    sim.memory = adopt(sim.memory, 7, was_held(VERDICT, sim.at_ns - S_NS))
    sim.run(30)

    assert sim.acts() == []


def test_a_job_that_was_being_stopped_is_watched_on() -> None:
    """It grows: the memory clock ends its grace."""
    job = SimJob(7, gib(33.1), gib(1), limit_bytes=gib(32), ignores_term=True)
    sim = Sim(total_bytes=gib(64)).add(job)
    sim.stop_by_user(7, 3600)
    sim.memory = adopt(sim.memory, 7, was_ending(VERDICT, sim.at_ns - S_NS, grace_s=3600))
    sim.run(4)

    assert [type(act) for act in sim.acts()] == [Kill, CameBack]
