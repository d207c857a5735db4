"""How every host is: asked all at once, with what is remembered of those that are away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from agentctl import __version__
from agentctl.errors import AgentNotRunningError, ApiLevelMismatchError
from agentctl.several.asking import Answered, Silent, ask_clients
from agentctl.several.cache import HostCache, Seen
from agentctl.several.window import window_complaint

if TYPE_CHECKING:
    from agentctl.api.client import Client
    from agentctl.link.book import Host
    from agentctl.model import Job

_LONGEST_LINE = 200
#: Of jobs that are over, how many are remembered: what `ls` shows.
_RECENT = 20


@dataclass(frozen=True, slots=True)
class Up:
    """Its agent answered."""

    version: str


@dataclass(frozen=True, slots=True)
class Down:
    """It is there, and no agent runs."""


@dataclass(frozen=True, slots=True)
class Foreign:
    """Its agent answered, and is of a version that this client does not understand."""

    why: str
    #: None: it did not say.
    version: str | None = None


@dataclass(frozen=True, slots=True)
class Away:
    """It could not be asked, or not in time."""

    why: str


State = Up | Down | Foreign | Away
STATE_WORDS = {Up: "up", Down: "no agent", Foreign: "upgrade", Away: "away"}


@dataclass(frozen=True, slots=True)
class Row:
    """One host, as `host ls` shows it."""

    host: Host
    state: State
    #: What it said last, now or before.
    seen: Seen | None

    @property
    def version(self) -> str:
        """Its agent's, or the one it was set up with."""
        match self.state:
            case Up(version) | Foreign(version=str(version)):
                return version
            case _:
                return self.host.version

    @property
    def jobs(self) -> int | None:
        """How many jobs were not over when it was last seen; None: that is not known."""
        return None if self.seen is None else sum(not job.is_over for job in self.seen.jobs)


def call_the_roll(hosts: Sequence[Host], within_s: float) -> list[Row]:
    """Ask all hosts at once; who has not answered in `within_s` seconds is away."""
    cache = HostCache.of_environment()
    answers = ask_clients(_client_of, _ask, {host.name: within_s for host in hosts})
    now = datetime.now(UTC)
    return [_row(host, answer, cache, now) for host, answer in zip(hosts, answers, strict=True)]


def _client_of(name: str) -> Client:
    from agentctl.api.client import Client

    return Client(name, start_agent=False)


@dataclass(frozen=True, slots=True)
class _Said:
    """What an agent answered."""

    state: Up | Foreign
    #: None: it cannot be asked for them by a client of this version.
    jobs: tuple[Job, ...] | None


def _ask(client: Client) -> _Said:
    # Every agent says its version to every client; what else it understands is another matter.
    version = client.agent_info().version
    why = window_complaint(__version__, version, client.host)
    if why:
        return _Said(Foreign(why, version), None)
    try:
        jobs = client.list(recent=_RECENT)
    except ApiLevelMismatchError as error:
        return _Said(Foreign(str(error), version), None)
    return _Said(Up(version), tuple(jobs))


def _row(host: Host, answer: Answered[_Said] | Silent, cache: HostCache, now: datetime) -> Row:
    if isinstance(answer, Silent):
        return Row(host, state_of(answer), cache.seen(host.name))
    said = answer.value
    if said.jobs is None:
        return Row(host, said.state, cache.seen(host.name))
    cache.keep(host.name, said.jobs, now)
    return Row(host, said.state, Seen(now, said.jobs))


def state_of(answer: Silent) -> State:
    """Return what the silence means. Pure."""
    why = str(answer.why)[:_LONGEST_LINE]
    match answer.why:
        case AgentNotRunningError():
            return Down()
        case ApiLevelMismatchError():
            return Foreign(why)
        case _:
            return Away(why)
