"""Says on stderr that the guard has paused a job: else whoever follows it sees only silence."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from agentctl.commands.base import warn
from agentctl.errors import AgentctlError
from agentctl.link import on_host
from agentctl.model import Event, Job, JobState
from agentctl.words import printable

if TYPE_CHECKING:
    from agentctl.api.client import Client

_BY_GUARD = "paused by the guard"
_PAUSED = "guard.paused"
_GOES_ON = frozenset({"guard.released", "job.resumed"})
#: The watch of a job that is over ends by itself.
_END_S = 1.0


class PauseTeller:
    """Tells each pause of a job by the guard once, however often it is seen."""

    def __init__(self, say: Callable[[str], None] = warn) -> None:
        """Nothing is told yet."""
        self._say = say
        #: The reason told last; None: the job goes on.
        self._told: str | None = None

    def see(self, item: Job | Event) -> None:
        """Look at the job as it is now, or at what happened to it."""
        match item:
            case Event(kind=kind) if kind in _GOES_ON:
                self._told = None
            case Event(kind=kind, job=job, detail=detail) if kind == _PAUSED:
                self._tell(job, detail)
            case Job(state=JobState.PAUSED, reason=str() as reason):
                self._tell(item, reason)
            case _:
                pass

    def _tell(self, job: Job, reason: str) -> None:
        if not reason.startswith(_BY_GUARD):
            reason = f"{_BY_GUARD}: {reason}"
        if reason != self._told:
            self._told = reason
            again = on_host(job.host, f"resume {job.id}")
            self._say(f"agentctl: job {job.id} is {printable(reason)}; {again}")


@contextmanager
def pauses_told(client: Client, job_id: int) -> Iterator[None]:
    """Within it, pauses of the job are told while something else is done."""
    watching = threading.Thread(target=_watch, args=(client, job_id), daemon=True)
    watching.start()
    yield
    watching.join(_END_S)


def _watch(client: Client, job_id: int) -> None:
    try:
        client.wait(job_id, seen=PauseTeller().see)
    except (AgentctlError, OSError):
        # Whoever follows the job meets the same and says it; a closed stderr takes no words.
        pass
