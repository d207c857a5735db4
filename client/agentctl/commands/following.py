"""`run` after its options: submit, follow, and what Ctrl-C means meanwhile."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import TYPE_CHECKING

from agentctl.api.logs import LogQuery
from agentctl.commands.base import note, warn
from agentctl.commands.copying import STDERR, STDOUT, LogCopy
from agentctl.commands.pauses import pauses_told
from agentctl.commands.status import shell_status
from agentctl.errors import AgentctlError, WrongStateError
from agentctl.link import on_host

if TYPE_CHECKING:
    from agentctl.api.client import Client
    from agentctl.api.draft import Draft
    from agentctl.model import Job

_SIGINT_STATUS = 130
_SECOND_WITHIN_S = 2.0


def run_to_end(client: Client, draft: Draft) -> int:
    """Start the job, copy its output, return its status or 130 once detached."""
    job, interrupted = _submit(client, draft)
    if draft.tty:
        note("what you type does not reach the job; attach comes in a later version")
    copies = [LogCopy(LogQuery(job.id, follow=True), STDOUT)]
    if draft.stderr_is_apart:
        copies.append(LogCopy(LogQuery(job.id, follow=True, stderr=True), STDERR))
    try:
        if interrupted:
            raise KeyboardInterrupt
        return _follow(client, job, copies)
    except KeyboardInterrupt:
        return _detach_or_stop(client, job, copies)


def _submit(client: Client, draft: Draft) -> tuple[Job, bool]:
    """Submit; say whether Ctrl-C came meanwhile: before the id is known nobody could come back."""
    interrupts: list[int] = []

    def remember(number: int, _: FrameType | None) -> None:
        interrupts.append(number)
        if len(interrupts) > 1:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        return client.submit_draft(draft), False
    previous = signal.signal(signal.SIGINT, remember)
    try:
        job = client.submit_draft(draft)
    finally:
        signal.signal(signal.SIGINT, previous)
    return job, bool(interrupts)


def _follow(client: Client, job: Job, copies: list[LogCopy]) -> int:
    others = [
        threading.Thread(target=_copy_quietly, args=(client, copy), daemon=True)
        for copy in copies[1:]
    ]
    for thread in others:
        thread.start()
    with pauses_told(client, job.id):
        copies[0].copy(client)
    for thread in others:
        thread.join()
    return shell_status(client.wait(job.id), complain=warn)


def _copy_quietly(client: Client, copy: LogCopy) -> None:
    try:
        copy.copy(client)
    except (AgentctlError, OSError):
        # The main thread meets the same and says it; a closed stderr takes no words.
        pass


def _detach_or_stop(client: Client, job: Job, copies: list[LogCopy]) -> int:
    back = on_host(client.host, f"logs -f {job.id}")
    warn(f"\ndetached: job {job.id} goes on; {back} to come back; Ctrl-C again within 2 s stops it")
    try:
        time.sleep(_SECOND_WITHIN_S)
    except KeyboardInterrupt:
        return _stop(client, job, copies)
    return _SIGINT_STATUS


def _stop(client: Client, job: Job, copies: list[LogCopy]) -> int:
    warn(f"\nstopping job {job.id}; Ctrl-C leaves it to end alone")
    try:
        client.stop(job.id)
    except WrongStateError:
        # It ended by itself in the meantime.
        pass
    return _follow(client, job, copies)
