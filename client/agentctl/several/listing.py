"""`ls` over several hosts: what answered, and what is remembered of the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from agentctl.errors import AgentctlError, AgentNotRunningError
from agentctl.link import LOCAL
from agentctl.several.asking import Answered, Silent, ask_clients
from agentctl.several.cache import HostCache, Seen

if TYPE_CHECKING:
    from agentctl.api.client import Client
    from agentctl.model import Job

#: For a host of which something is remembered, and for one of which nothing is.
_WAIT_S = 1.0
_WAIT_UNKNOWN_S = 10.0


@dataclass(frozen=True, slots=True)
class Filter:
    """Which jobs are listed."""

    states: tuple[str, ...] = ()
    name: str | None = None
    labels: Mapping[str, str] | None = None
    #: Of jobs that are over, how many of the newest. None: all.
    recent: int | None = None

    @property
    def is_whole(self) -> bool:
        """Whether nothing but old jobs is left out."""
        return not (self.states or self.name or self.labels)

    def of(self, jobs: Sequence[Job]) -> list[Job]:
        """Return those that pass. Pure."""
        passed = [job for job in jobs if self._passes(job)]
        if self.recent is None:
            return passed
        over = [job.id for job in passed if job.is_over][: self.recent]
        return [job for job in passed if not job.is_over or job.id in over]

    def _passes(self, job: Job) -> bool:
        return (
            (not self.states or job.state in self.states)
            and (self.name is None or job.name == self.name)
            and all(job.labels.get(key) == value for key, value in (self.labels or {}).items())
        )


@dataclass(frozen=True, slots=True)
class Absent:
    """A host that did not answer: why, and as of when its jobs are shown, if they are."""

    host: str
    why: AgentctlError
    seen_at: datetime | None


@dataclass(frozen=True, slots=True)
class Listing:
    """The jobs of several hosts."""

    #: By host in the order asked, newest first within one.
    jobs: tuple[Job, ...]
    #: Jobs of these are as they were when the host was last seen.
    absent: tuple[Absent, ...]


def list_hosts(hosts: Sequence[str], wanted: Filter, client_of: Callable[[str], Client]) -> Listing:
    """Ask all hosts for their jobs; take what is remembered for those that do not answer.

    `client_of` is called in several threads at once.
    """
    cache = HostCache.of_environment()
    remembered = {host: None if host == LOCAL else cache.seen(host) for host in hosts}

    def ask(client: Client) -> list[Job]:
        try:
            return client.list(
                states=wanted.states,
                name=wanted.name,
                labels=wanted.labels,
                recent=wanted.recent,
            )
        except AgentNotRunningError:
            # Only where none was to be started: then there is nothing to list either.
            return []

    waits_s = {h: _WAIT_S if remembered[h] is not None else _WAIT_UNKNOWN_S for h in hosts}
    answers = ask_clients(client_of, ask, waits_s)
    now = datetime.now(UTC)
    for answer in answers:
        if isinstance(answer, Answered) and answer.host != LOCAL and wanted.is_whole:
            cache.keep(answer.host, answer.value, now)
    return put_together(answers, remembered, wanted)


def put_together(
    answers: Sequence[Answered[list[Job]] | Silent],
    remembered: Mapping[str, Seen | None],
    wanted: Filter,
) -> Listing:
    """Return the listing of what came and what is remembered. Pure."""
    jobs: list[Job] = []
    absent: list[Absent] = []
    for answer in answers:
        if isinstance(answer, Answered):
            jobs += answer.value
            continue
        seen = remembered[answer.host]
        absent.append(Absent(answer.host, answer.why, None if seen is None else seen.at))
        jobs += [] if seen is None else wanted.of(seen.jobs)
    return Listing(tuple(jobs), tuple(absent))
