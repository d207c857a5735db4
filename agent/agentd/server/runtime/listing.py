"""Listing jobs: newest first, page by page, at a cost that does not grow with the history.

A query is a few arms, each an ordered walk down one index, merged by id. Which index an arm
walks is written down (INDEXED BY), because SQLite's planner has no statistics to choose by.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import merge
from itertools import islice

from agentd.core.job import State
from agentd.server.runtime.codec import ACTIVE_STATES, FINAL_STATES, STATE_NAMES
from agentd.server.runtime.model import JobInfo, JobPage, JobQuery
from agentd.server.runtime.store import JobRow, Store, job_from_row

#: Without a page size of the caller's, and the most that any caller gets.
PAGE_SIZE = 1_000
#: A page is cut here, so that jobs with huge argument lists cannot make a reply too large.
PAGE_BYTES = 2 << 20
_NO_LIMIT = 1 << 62


@dataclass(frozen=True, slots=True)
class Arm:
    """One ordered walk: ids in [from_id, below_id), newest first."""

    query: str
    parameters: tuple[str | int, ...]
    final: bool


def arms(query: JobQuery) -> list[Arm]:
    """Return the walks that together find every match, without bounds on the id. Pure."""
    wanted = query.states or (ACTIVE_STATES | FINAL_STATES)
    found: list[Arm] = []
    for final, states in ((False, ACTIVE_STATES), (True, FINAL_STATES)):
        chosen = wanted & states
        if not chosen:
            continue
        # One walk for a whole side, or one for each end: the rare ones have an index.
        groups = [chosen] if not final or chosen == states else [frozenset({s}) for s in chosen]
        found += [_arm(query, group, final=final, whole=group == states) for group in groups]
    return found


def _arm(query: JobQuery, group: frozenset[type[State]], *, final: bool, whole: bool) -> Arm:
    conditions = ["j.active = 0" if final else "j.active = 1"]
    parameters: list[str | int] = []
    labels = list(query.labels.items())
    source = "jobs j INDEXED BY jobs_by_active"
    order = "j.id"
    if query.name:
        source = "jobs j INDEXED BY jobs_by_name"
        conditions += ["j.name = ?", "j.name <> ''"]
        parameters.append(query.name)
    elif labels:
        # CROSS JOIN: SQLite keeps the order of the tables and walks the label's index.
        source, order = "labels l CROSS JOIN jobs j ON j.id = l.job_id", "l.job_id"
        conditions += ["l.key = ?", "l.value = ?"]
        parameters += labels.pop(0)
    elif final and not whole:
        source = "jobs j INDEXED BY jobs_by_end"
    for pair in labels:
        conditions.append(
            "EXISTS (SELECT 1 FROM labels WHERE key = ? AND value = ? AND job_id = j.id)"
        )
        parameters += pair
    if not whole:
        marks = ", ".join("?" * len(group))
        conditions.append("j.kind = ?" if len(group) == 1 else f"j.kind IN ({marks})")
        parameters += [STATE_NAMES[state] for state in group]
    where = " AND ".join([*conditions, f"{order} >= ?", f"{order} < ?"])
    text = (
        "SELECT j.id, j.kind, j.state, j.summary, j.event_seq"  # noqa: S608  # values are bound
        f" FROM {source} WHERE {where} ORDER BY {order} DESC LIMIT ?"
    )
    return Arm(text, tuple(parameters), final)


def list_jobs(store: Store, query: JobQuery) -> JobPage:
    """Return one page.

    Raises:
        StoreCorruptError: The index is damaged.

    """
    size = min(query.page_size or PAGE_SIZE, PAGE_SIZE)
    below = query.before_id or _NO_LIMIT
    with store.translated():
        walks = arms(query)
        floor = _recent_floor(store, walks, query.recent_limit) if query.current_only else 0
        parts = [
            store.connection.execute(
                arm.query, (*arm.parameters, floor if arm.final else 0, below, size + 1)
            )
            for arm in walks
        ]
        rows: Iterator[JobRow] = merge(*parts, reverse=True)
        return _cut(rows, size)


def _recent_floor(store: Store, walks: list[Arm], recent_limit: int) -> int:
    if recent_limit <= 0:
        return _NO_LIMIT
    newest = [
        store.connection.execute(arm.query, (*arm.parameters, 0, _NO_LIMIT, recent_limit))
        for arm in walks
        if arm.final
    ]
    ids = [row[0] for row in islice(merge(*newest, reverse=True), recent_limit)]
    return ids[-1] if ids else 0


def _cut(rows: Iterator[JobRow], size: int) -> JobPage:
    jobs: list[JobInfo] = []
    room_bytes = PAGE_BYTES
    for row in rows:
        room_bytes -= len(row[3])
        if len(jobs) == size or (jobs and room_bytes < 0):
            return JobPage(tuple(jobs), jobs[-1].spec.id)
        jobs.append(job_from_row(row))
    return JobPage(tuple(jobs), 0)
