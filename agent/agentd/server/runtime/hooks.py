"""Hooks: programs of the user's that are run when a job ends or the guard acts.

Nothing waits for a hook: it is put into a short line, and up to `MOST_AT_ONCE` threads work that
off, each of which runs one hook at a time (`hookrun`). When the line is full its oldest entry
is dropped, with a line in the log.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from agentd.core.contract import GuardNotice, NoticeKind
from agentd.core.describe import is_final
from agentd.core.ending import signal_name
from agentd.core.job import Ended, Lost, Paused, Running, StartFailed, State, Stopping
from agentd.server.runtime.codec import STATE_NAMES
from agentd.server.runtime.hookrun import HookRun, Outcome, run_hook
from agentd.server.runtime.model import JobInfo

MOST_AT_ONCE = 4
MOST_WAITING = 100
FILE_NAME = "hooks.log"
FILE_BYTES = 1 << 20

#: What the guard's act makes of a job that is not over.
_LEADS_TO: Mapping[NoticeKind, type[State]] = {
    NoticeKind.PAUSED: Paused,
    NoticeKind.RELEASED: Running,
    NoticeKind.TERMINATED: Stopping,
    NoticeKind.KILLED: Stopping,
}

_log = structlog.get_logger("agentd.hooks")


@dataclass(frozen=True, slots=True)
class HooksConfig:
    """Section [hooks]: program and arguments; empty: none."""

    on_guard: tuple[str, ...] = ()
    on_end: tuple[str, ...] = ()
    timeout_s: float = 30.0


class Hooks:
    """Runs hooks. `ended` and `guarded` may be called from one thread only, and never wait."""

    def __init__(self, log_dir: str, config: HooksConfig) -> None:
        """Their output goes to hooks.log in `log_dir`."""
        self.config = config
        self._file = HookLog(f"{log_dir}/{FILE_NAME}")
        self._lock = threading.Lock()
        self._line: deque[HookRun] = deque()
        self._workers: set[threading.Thread] = set()
        self._closing = threading.Event()

    def ended(self, info: JobInfo, kind: str) -> None:
        """Run `on_end`, if there is one: the job is over."""
        self._add("on_end", self.config.on_end, {**job_facts(info), "AGENTCTL_EVENT": kind})

    def guarded(self, notice: GuardNotice, info: JobInfo | None) -> None:
        """Run `on_guard`, if there is one: the guard did or saw something."""
        self._add("on_guard", self.config.on_guard, notice_facts(notice, info))

    def _add(self, hook: str, argv: tuple[str, ...], facts: Mapping[str, str]) -> None:
        if not argv or self._closing.is_set():
            return
        with self._lock:
            if len(self._line) >= MOST_WAITING:
                dropped = self._line.popleft()
                _log.warning("hook.dropped", hook=dropped.hook, **_about(dropped))
            self._line.append(HookRun(hook, argv, self.config.timeout_s, facts))
            if len(self._workers) >= MOST_AT_ONCE:
                return
            # A daemon: should one ever hang, the server still ends.
            worker = threading.Thread(target=self._work, name="agentd-hook", daemon=True)
            self._workers.add(worker)
        try:
            worker.start()
        except RuntimeError as error:
            # A limit of processes. The run stays in the line, for a worker or the next event.
            with self._lock:
                self._workers.discard(worker)
            _log.warning("hook.delayed", hook=hook, error=str(error))

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._line:
                    self._workers.discard(threading.current_thread())
                    return
                run = self._line.popleft()
            try:
                self._run(run)
            except Exception as error:  # noqa: BLE001  # the rim of a thread: a lost worker would stay counted
                _log.error("hook.crashed", hook=run.hook, exc_info=error)

    def _run(self, run: HookRun) -> None:
        began_s = time.monotonic()
        outcome = run_hook(run, self._closing.is_set)
        took_s = round(time.monotonic() - began_s, 3)
        say = _log.warning if outcome.complaint else _log.info
        what = "hook.failed" if outcome.complaint else "hook.ended"
        more = {"error": outcome.complaint} if outcome.complaint else {}
        say(what, hook=run.hook, program=run.argv[0], duration_s=took_s, **_about(run), **more)
        try:
            self._file.write(run, outcome)
        except OSError as error:
            _log.warning("hook.output_lost", hook=run.hook, error=str(error))

    def close(self, timeout_s: float) -> None:
        """Begin no more, kill those under way, and wait for that `timeout_s` at most."""
        self._closing.set()
        with self._lock:
            self._line.clear()
            workers = list(self._workers)
        deadline_s = time.monotonic() + timeout_s
        for worker in workers:
            worker.join(max(0.0, deadline_s - time.monotonic()))


def _about(run: HookRun) -> dict[str, str]:
    facts = run.facts
    return {"about": facts["AGENTCTL_EVENT"], "job_id": facts["AGENTCTL_JOB_ID"]}


def job_facts(info: JobInfo | None) -> dict[str, str]:
    """Return what a hook is told of a job, as variables; all of them, empty where unknown. Pure."""
    facts = dict.fromkeys(
        (
            "AGENTCTL_JOB_ID",
            "AGENTCTL_JOB_NAME",
            "AGENTCTL_JOB_STATE",
            "AGENTCTL_EXIT_CODE",
            "AGENTCTL_SIGNAL",
            "AGENTCTL_CAUSE",
            "AGENTCTL_REASON",
            "AGENTCTL_GUARD_ACTION",
        ),
        "",
    )
    if info is None:
        return facts
    facts["AGENTCTL_JOB_ID"] = str(info.spec.id)
    facts["AGENTCTL_JOB_NAME"] = info.spec.name
    return {**facts, **_state_facts(info.state)}


def notice_facts(notice: GuardNotice, info: JobInfo | None) -> dict[str, str]:
    """Return what a hook is told of what the guard did or saw. Pure."""
    facts = {
        **job_facts(info),
        "AGENTCTL_EVENT": f"guard.{notice.kind.value}",
        "AGENTCTL_GUARD_ACTION": notice.kind.value,
        "AGENTCTL_REASON": notice.text,
    }
    if info is not None and not is_final(info.state) and notice.kind in _LEADS_TO:
        # What the shim says of it comes a moment later.
        facts["AGENTCTL_JOB_STATE"] = STATE_NAMES[_LEADS_TO[notice.kind]]
    return facts


def _state_facts(state: State) -> dict[str, str]:
    facts = {"AGENTCTL_JOB_STATE": STATE_NAMES[type(state)]}
    match state:
        case Ended() | StartFailed() | Lost():
            facts |= {"AGENTCTL_CAUSE": state.cause.value, "AGENTCTL_REASON": state.reason}
        case Stopping():
            facts["AGENTCTL_CAUSE"] = state.cause.value
        case Paused() | _:
            pass
    if isinstance(state, Ended):
        code, number = state.status.exit_code, state.status.signal_number
        facts["AGENTCTL_EXIT_CODE"] = "" if code is None else str(code)
        facts["AGENTCTL_SIGNAL"] = "" if number is None else signal_name(number)
    return facts


class HookLog:
    """What hooks wrote: one file, and the one before it."""

    def __init__(self, path: str) -> None:
        """Nothing is opened yet."""
        self._path = path
        self._lock = threading.Lock()

    def write(self, run: HookRun, outcome: Outcome) -> None:
        """Append one run. Raises OSError."""
        head = (
            f"--- {datetime.now(UTC).isoformat(timespec='seconds')} {run.hook} "
            f"{run.facts['AGENTCTL_EVENT']} job {run.facts['AGENTCTL_JOB_ID'] or '-'}: "
            f"{outcome.complaint or 'ended well'}\n"
        )
        tail = b"\n[more was thrown away]\n" if outcome.cut else b""
        if outcome.output and not outcome.cut and not outcome.output.endswith(b"\n"):
            tail = b"\n"
        data = head.encode("utf-8", "backslashreplace") + outcome.output + tail
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        with self._lock:
            self._rotate_for(len(data))
            descriptor = os.open(self._path, flags, 0o600)
            try:
                os.write(descriptor, data)
            finally:
                os.close(descriptor)

    def _rotate_for(self, size_bytes: int) -> None:
        """Make room before the file is opened: one descriptor, closed once."""
        try:
            held_bytes = os.lstat(self._path).st_size
        except FileNotFoundError:
            return
        if 0 < held_bytes > FILE_BYTES - size_bytes:
            os.replace(self._path, f"{self._path}.1")
