"""The guard as people and programs see it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from agentapi.v1 import guard_service_pb2 as wire
from agentctl.api.guard import guard_from_wire
from agentctl.errors import ApiLevelMismatchError
from agentctl.guard import (
    Guard,
    GuardedJob,
    GuardNotice,
    HostMemory,
    Mark,
    MarkRule,
    NoticeKind,
)
from agentctl.model import Cause, JobState
from agentctl.render import jobs as render
from agentctl.render.color import Palette
from agentctl.render.guard import guard_block, guard_to_json
from agentctl.render.table import width_of
from tests.unit.agentctl.samples import AT, later, sample_job

PLAIN = Palette(enabled=False)
COLOURED = Palette(enabled=True)
GIB = 1 << 30
HOST = HostMemory(
    total_bytes=64 * GIB,
    available_bytes=7 * GIB,
    falling_bytes_per_s=2 * GIB,
    exhausted_after_s=3.5,
    warn_bytes=10 * GIB,
    pause_bytes=5 * GIB,
    term_bytes=3 * GIB,
    kill_bytes=2 * GIB,
)
KILLED = "stopped by the guard: 33.1 of 32 GiB, growing 2.1 GB/s, host had 1.9 GiB left"
GUARD = Guard(
    enabled=True,
    dry_run=False,
    layers=(
        "sampling: every job, 2 ms to 1 s",
        "not in force: kernel backstop: this host has no unified cgroup v2, so no memory.max",
    ),
    host=HOST,
    jobs=(
        GuardedJob(17, "train", 33 * GIB, 33 * GIB, 32 * GIB, 2 * GIB, "over its limit by 1 GiB"),
        GuardedJob(9, None, 40 * GIB, None, 32 * GIB, 0, "not measured exactly"),
        GuardedJob(8, "prep", 1 * GIB, None, None, -3 * GIB, "least freeable"),
    ),
    notices=(
        GuardNotice(NoticeKind.WARNED, AT, "7.0 GiB left of 64", None),
        GuardNotice(NoticeKind.KILLED, AT, KILLED, 17),
    ),
)  # fmt: skip


def text(guard: Guard = GUARD, width: int | None = None) -> str:
    """Return the report without colours."""
    return "\n".join(guard_block(guard, PLAIN, width))


def test_the_memory_the_crossed_mark_and_the_end_in_sight_are_said() -> None:
    """One line each."""
    lines = text().splitlines()
    assert lines[0] == "guard    on"
    assert lines[1] == (
        "memory   7 GiB of 64 GiB available, falling 2 GiB/s, gone in 3.5s, below warn"
    )
    assert lines[2] == "marks    warn 10 GiB, pause 5 GiB, term 3 GiB, kill 2 GiB"


@pytest.mark.parametrize(
    ("available", "crossed"),
    [(10, None), (9, Mark.WARN), (4, Mark.PAUSE), (2.5, Mark.TERM), (1, Mark.KILL), (0, Mark.KILL)],
)
def test_the_lowest_mark_is_the_one_that_counts(available: float, crossed: Mark | None) -> None:
    """At a mark is not below it."""
    assert replace(HOST, available_bytes=int(available * GIB)).crossed is crossed


def test_a_job_says_what_it_uses_and_what_is_left() -> None:
    """Exactly where it was measured; at most where there was no need to."""
    table = [re.split(r"\s{2,}", line.strip()) for line in text().splitlines()[7:10]]
    assert table == [
        ["17", "train", "33 GiB", "32 GiB", "over 1 GiB", "+2 GiB/s", "over its limit by 1 GiB"],
        ["9", "-", "≤ 40 GiB", "32 GiB", "over 8 GiB?", "-", "not measured exactly"],
        ["8", "prep", "≤ 1 GiB", "-", "-", "-3 GiB/s", "least freeable"],
    ]


def test_off_and_dry_run_cannot_be_overlooked() -> None:
    """In the first line, in words."""
    assert text(replace(GUARD, enabled=False)).startswith("guard    off: nothing stops a job")
    assert text(replace(GUARD, dry_run=True)).startswith("guard    dry run: it says what it would")


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    """Prose is wrapped, names are cut; where there is no room for a table there is none."""
    lines = guard_block(GUARD, PLAIN, width)
    assert max(map(width_of, lines)) <= width
    words = " ".join(text(GUARD, width).split())
    assert "host had 1.9 GiB left" in words
    for job in GUARD.jobs:
        assert job.why in words


def test_a_long_reason_stands_below_its_job() -> None:
    """Whole, however narrow the terminal; off a terminal a job is one line."""
    why = "over its own limit by 23.6 MiB, preemptible, explains the decline, gives back 83.6 MiB"
    guard = replace(GUARD, jobs=(replace(GUARD.jobs[0], name="n" * 60, why=why),))
    for width in (40, 80, 120):
        assert why in " ".join(text(guard, width).split())
        assert "n" * 40 not in text(guard, width)
    assert text(guard).splitlines()[7].endswith(f"  {why}")


def test_a_job_that_was_not_looked_at_holds_no_zero() -> None:
    """Unknown is said; JSON has null."""
    job = replace(GUARD.jobs[1], upper_bytes=None)
    guard = replace(GUARD, jobs=(job,))
    assert re.split(r"\s{2,}", text(guard).splitlines()[7].strip())[2:5] == [
        "not yet seen", "32 GiB", "-",
    ]  # fmt: skip
    (body,) = guard_to_json(guard)["jobs"]
    assert (body["upper_bytes"], body["headroom_bytes"]) == (None, None)


def test_a_mark_says_which_of_its_numbers_counts() -> None:
    """The share of this host's memory, or the cap; nothing where the agent does not know."""
    rules = {Mark.WARN: MarkRule(15.625, 16 * GIB), Mark.PAUSE: MarkRule(8, 5 * GIB)}
    line = text(replace(GUARD, host=replace(HOST, rules=rules))).splitlines()[2]
    assert line == "marks    warn 10 GiB (15.625 %), pause 5 GiB (cap), term 3 GiB, kill 2 GiB"


@pytest.mark.parametrize(
    ("available", "falling", "after_s", "said"),
    [
        (60, 1 << 30, 59.0, "falling 1 GiB/s, gone in 59s"),
        (60, 1 << 30, 61.0, "falling 1 GiB/s"),
        (12, 1 << 30, 61.0, "falling 1 GiB/s, gone in 1m01s"),
        (12, 1 << 30, 601.0, "falling 1 GiB/s"),
        (60, -(1 << 30), None, "rising 1 GiB/s"),
        (60, 1, None, "available"),
    ],
)
def test_an_end_is_told_only_when_it_is_in_sight(
    available: int, falling: int, after_s: float | None, said: str
) -> None:
    """A little noise on a host with room is no forecast."""
    host = replace(
        HOST,
        available_bytes=available * GIB,
        falling_bytes_per_s=falling,
        exhausted_after_s=after_s,
    )
    assert text(replace(GUARD, host=host)).splitlines()[1].endswith(said)


def test_a_guard_that_is_off_has_no_order() -> None:
    """What it would do otherwise would only mislead."""
    shown = text(replace(GUARD, enabled=False), 120)
    assert [job.why in shown for job in GUARD.jobs] == [False] * 3
    assert re.findall(r"^ *(\d+) ", shown, re.MULTILINE) == ["8", "9", "17"]


def test_a_configuration_that_is_not_in_force_is_said() -> None:
    """Beside the marks that are."""
    error = "/c.toml: guard.warn: no; the last good one is in force"
    guard = replace(GUARD, config_error=error)
    assert f"config   not in force: {error}" in text(guard)
    assert guard_to_json(guard)["config_error"] == error


def test_a_notice_says_nothing_twice() -> None:
    """Whom it is about stands before it; its time is written as in the events."""
    notices = (
        GuardNotice(NoticeKind.WOULD_ACT, AT, "would have stopped job 17: 3 of 2 GiB", 17),
        GuardNotice(NoticeKind.WARNED, AT, "host has 2 GiB available", None),
    )
    lines = text(replace(GUARD, notices=notices)).splitlines()[-2:]
    assert lines == [
        "2025-03-01T12:00:00.250Z  job 17  would have stopped: 3 of 2 GiB",
        "2025-03-01T12:00:00.250Z  host  has 2 GiB available",
    ]


def test_colours_change_nothing_but_colours() -> None:
    """The same words for those who see none."""
    coloured = "\n".join(guard_block(GUARD, COLOURED, 80))
    stripped = [re.sub(r"\x1b\[\d+m", "", line).rstrip() for line in coloured.splitlines()]
    assert stripped == [line.rstrip() for line in text(GUARD, 80).splitlines()]


def test_what_others_wrote_cannot_steer_the_terminal() -> None:
    """Names, reasons and layers are printed, not obeyed."""
    evil = "\x1b[2J\n"
    job = replace(GUARD.jobs[0], name=evil, why=evil)
    notice = replace(GUARD.notices[0], text=evil)
    guard = replace(GUARD, layers=(evil,), jobs=(job,), notices=(notice,))
    for width in (None, 80):
        assert "\x1b" not in text(guard, width)


def test_no_jobs_and_no_notices_are_short() -> None:
    """Nothing empty is drawn."""
    lines = text(replace(GUARD, jobs=(), notices=())).splitlines()
    assert lines[-1] == "jobs     none"
    assert "" not in lines


def test_json_has_units_in_its_names_and_null_where_nothing_is_known() -> None:
    """Programs rely on them."""
    body = json.loads(json.dumps(guard_to_json(GUARD)))
    first = ["enabled", "dry_run", "layers", "host", "jobs", "notices"]
    assert list(body) == [*first, "config_error", "pause_limit_s"]
    assert body["host"]["crossed"] == "warn"
    assert body["jobs"][0]["headroom_bytes"] == -GIB
    assert (body["jobs"][1]["held_bytes"], body["jobs"][2]["headroom_bytes"]) == (None, None)
    assert [notice["job_id"] for notice in body["notices"]] == [None, 17]
    assert body["notices"][1]["kind"] == "killed"


def test_a_report_comes_through_the_wire() -> None:
    """What is unset stays unknown, and what a later version tells is refused."""
    report = wire.GetGuardResponse(
        enabled=True,
        layers=["a"],
        host=wire.HostMemory(total_bytes=9, available_bytes=4),
        jobs=[wire.GuardedJob(job_id=7, upper_bytes=5, why="w")],
        notices=[wire.GuardNotice(kind=wire.GUARD_NOTICE_KIND_CAME_BACK, text="t")],
    )
    guard = guard_from_wire(report)
    assert guard.host.exhausted_after_s is None
    assert guard.jobs == (GuardedJob(7, None, 5, None, None, 0, "w"),)
    assert (guard.notices[0].kind, guard.notices[0].job_id) == (NoticeKind.CAME_BACK, None)
    report.notices[0].kind = 99  # type: ignore[assignment]  # of a later version
    with pytest.raises(ApiLevelMismatchError, match="update agentctl"):
        guard_from_wire(report)


def test_reasons_are_listed_only_where_there_is_one() -> None:
    """At the end of the line, cut to the terminal; without any the table is as it was."""
    running = sample_job(JobState.RUNNING, 8)
    stopped = replace(
        sample_job(JobState.ENDED),
        exit_code=None,
        signal="SIGKILL",
        cause=Cause.GUARD,
        reason=KILLED,
    )
    assert "REASON" not in render.job_table([running], later(60), PLAIN, 80)[0]
    for width in (80, 120):
        lines = render.job_table([running, stopped], later(60), PLAIN, width)
        assert lines[0].endswith("REASON")
        assert width_of(lines[2]) == width or lines[2].endswith("left")
        assert "SIGKILL guard" in lines[2]
        assert "33.1 of 32 GiB" in lines[2]
    paused = replace(sample_job(JobState.PAUSED), reason="paused by the guard: low")
    assert render.job_table([paused], later(60), PLAIN, 80)[1].endswith("  guard: low")
    whole = render.job_table([running, stopped], later(60), PLAIN, None)
    assert whole[2].endswith("host had 1.9 GiB left")


def test_show_says_limit_action_and_requeues() -> None:
    """In words; nothing where nothing was asked for."""
    plain = "\n".join(render.job_block(sample_job(JobState.RUNNING), "/s", later(60), PLAIN))
    assert not re.search("memory limit|preemptible|requeue", plain)
    job = replace(
        sample_job(JobState.ENDED),
        mem_limit_bytes=32 * GIB,
        preemptible=True,
        requeue_limit=3,
        requeue_count=1,
        requeue_of=5,
        requeued_as=9,
    )
    shown = "\n".join(render.job_block(job, "/s", later(60), PLAIN))
    assert "memory limit  32 GiB, then kill" in shown
    assert "preemptible   the first to go when memory runs out" in shown
    assert "requeue       1 of 3 used, this is job 5 again, goes on as job 9" in shown


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"requeue_at": later(100)}, "1 of 3 used, again at 2025-03-01"),
        ({"requeue_at": later(50)}, "1 of 3 used, again once the host has memory"),
        ({"requeue_cancelled": "stopped by the user"}, "cancelled: stopped by the user"),
        ({"requeue_count": 3, "cause": Cause.GUARD}, "3 of 3 used, used up"),
    ],
)
def test_show_says_what_became_of_a_requeue(changed: dict[str, Any], said: str) -> None:
    """It waits, it was cancelled, or there is none left."""
    job = replace(sample_job(JobState.ENDED), requeue_limit=3, requeue_count=1)
    shown = "\n".join(render.job_block(replace(job, **changed), "/s", later(60), PLAIN))
    assert said in shown


def test_a_requeue_that_waits_stands_in_the_listing() -> None:
    """Before the reason of the end."""
    job = replace(sample_job(JobState.ENDED), reason=KILLED, requeue_at=later(100))
    line = render.job_table([job], later(60), PLAIN, None)[1]
    assert "requeue waits; 33.1 of 32 GiB" in line
