"""The server's side of the guard: passes its policy on, notes what it did, asks how it stands.

The warden guards with or without a server. What it tells may come twice, after a restart of
either; an event is noted once, by job, kind and time.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from dataclasses import replace

import structlog

from agentd.core.contract import (
    GuardNotice,
    GuardReport,
    NoticeKind,
    ReportGuard,
    SetGuard,
)
from agentd.core.guard.model import GuardPolicy
from agentd.errors import AgentError, GuardSilentError
from agentd.server.runtime.board import Board
from agentd.server.runtime.hooks import Hooks
from agentd.server.runtime.model import JobInfo
from agentd.server.runtime.store import Store
from agentd.server.runtime.wardenlink import WardenLink

#: How long the warden has for a report.
ANSWER_S = 2.0
#: A report this young is given again: however many ask, the warden is asked ten times a second.
FRESH_S = 0.1
KEPT_NOTICES = 50
#: A dry run speaks every second for as long as a job is over its limit; its events would push
#: all others out of the index, which keeps so many.
DRY_RUN_EVENT_NS = 60_000_000_000

_MOST_REMEMBERED = 1_000
_PAUSED = f"guard.{NoticeKind.PAUSED.value}"
#: After any of these the guard's last pause is over.
_PAUSE_EVENTS = (_PAUSED, f"guard.{NoticeKind.RELEASED.value}", "job.resumed")
_PAUSE_WORDS = "paused by the guard"
_END_EVENTS = (f"guard.{NoticeKind.TERMINATED.value}", f"guard.{NoticeKind.KILLED.value}")
_QUIET = frozenset({NoticeKind.RELEASED, NoticeKind.CAME_BACK})

_log = structlog.get_logger("agentd.guard")


def message_of(policy: GuardPolicy) -> SetGuard:
    """Return the policy as it is told to the warden. Pure."""
    marks = policy.marks
    return SetGuard(
        enabled=policy.enabled,
        dry_run=policy.dry_run,
        pause_limit_s=policy.pause_limit_s,
        warn=(marks.warn.percent, marks.warn.cap_bytes),
        pause=(marks.pause.percent, marks.pause.cap_bytes),
        term=(marks.term.percent, marks.term.cap_bytes),
        kill=(marks.kill.percent, marks.kill.cap_bytes),
    )


class GuardDesk:
    """What the server knows of the guard. Belongs to one event loop."""

    def __init__(self, store: Store, board: Board, link: WardenLink, hooks: Hooks) -> None:
        """Nothing is asked yet."""
        self._store = store
        self._board = board
        self._link = link
        self._hooks = hooks
        self._numbers = itertools.count(1)
        self._asked: tuple[int, asyncio.Future[GuardReport]] | None = None
        self._latest: tuple[float, GuardReport] | None = None
        #: By job: the last of those that were noted.
        self._would_have_acted_ns: dict[int, int] = {}
        self._notices: deque[GuardNotice] = deque(maxlen=KEPT_NOTICES)

    def apply(self, policy: GuardPolicy) -> None:
        """Tell the warden what holds from now on. Raises WardenGoneError."""
        self._link.send(message_of(policy))
        self._latest = None

    def take_notice(self, notice: GuardNotice) -> None:
        """Note what the guard did or saw: event, log and hook."""
        info = self._board.find(notice.job_id) if notice.job_id else None
        kind = f"guard.{notice.kind.value}"
        if notice in self._notices or (
            info is not None and self._store.has_event(info.spec.id, kind, notice.occurred_at_ns)
        ):
            return
        self._notices.append(notice)
        say = _log.info if notice.kind in _QUIET else _log.warning
        say(kind, job_id=notice.job_id or None, text=notice.text)
        if notice.kind is NoticeKind.WOULD_ACT and self._was_noted_lately(notice):
            return
        if info is not None:
            info = self._board.note(info.spec.id, kind, notice.text, notice.occurred_at_ns)
        self._hooks.guarded(notice, info)

    def _was_noted_lately(self, notice: GuardNotice) -> bool:
        last_ns = self._would_have_acted_ns.get(notice.job_id)
        if last_ns is not None and 0 <= notice.occurred_at_ns - last_ns < DRY_RUN_EVENT_NS:
            return True
        if len(self._would_have_acted_ns) > _MOST_REMEMBERED:
            self._would_have_acted_ns.clear()
        self._would_have_acted_ns[notice.job_id] = notice.occurred_at_ns
        return False

    def take_report(self, report: GuardReport) -> None:
        """Give the warden's answer to those who wait for it."""
        if self._asked is None or self._asked[0] != report.number:
            # Too late: nobody waits for it any more.
            return
        future, self._asked = self._asked[1], None
        self._latest = (time.monotonic(), report)
        if not future.done():
            future.set_result(report)

    async def report(self) -> GuardReport:
        """Return the guard's view, with the notices of warden and server together.

        Raises:
            GuardSilentError: The warden does not answer within 2 s.
            WardenGoneError: It is gone.

        """
        report = await self._fresh_report()
        known = {*report.notices, *self._notices}
        newest = sorted(known, key=lambda notice: (notice.occurred_at_ns, notice.job_id))
        return replace(report, notices=tuple(newest[-KEPT_NOTICES:]))

    async def _fresh_report(self) -> GuardReport:
        if self._latest is not None and time.monotonic() - self._latest[0] < FRESH_S:
            return self._latest[1]
        if self._asked is None:
            number = next(self._numbers)
            self._link.send(ReportGuard(number))
            self._asked = (number, asyncio.get_running_loop().create_future())
        asked = self._asked
        try:
            async with asyncio.timeout(ANSWER_S):
                return await asyncio.shield(asked[1])
        except TimeoutError:
            if self._asked is asked:
                # The next one asks anew.
                self._asked = None
            raise GuardSilentError(
                f"the guard did not answer within {ANSWER_S:g} s; try again"
            ) from None

    async def is_memory_back(self) -> bool:
        """Say whether more is available than the warn mark; not knowing is no."""
        try:
            report = await self._fresh_report()
        except AgentError:
            return False
        return report.host_available_bytes > report.warn_bytes

    def pause_reason(self, info: JobInfo) -> str:
        """Return why the guard has paused a paused job; "" if the user has."""
        last = self._store.last_of(info.spec.id, _PAUSE_EVENTS)
        if last is None or last[0] != _PAUSED:
            return ""
        return last[1] if last[1].startswith("paused") else f"{_PAUSE_WORDS}: {last[1]}"

    def end_reason(self, info: JobInfo) -> str:
        """Return why the guard is ending a job; "" if it has not said so yet."""
        last = self._store.last_of(info.spec.id, _END_EVENTS)
        return "" if last is None else last[1]
