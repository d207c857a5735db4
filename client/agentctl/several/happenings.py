"""`events` over several hosts: their streams side by side, or merged by time."""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentctl.errors import (
    AgentctlError,
    AgentNotRunningError,
    JobNotFoundError,
    TryAgainError,
)
from agentctl.several.asking import Answered, Silent, ask_clients
from agentctl.several.references import explained, read_references

if TYPE_CHECKING:
    from agentctl.api.client import Client
    from agentctl.api.trouble import OnNotice
    from agentctl.model import Event

#: One that says nothing for so long cannot be asked now.
_WAIT_S = 20.0
#: A host whose events nobody takes away waits: they stay with its agent.
_MOST_WAITING = 1000
#: For one attempt to reach a host that is away.
_JOIN_WITHIN_S = 15.0


@dataclass(frozen=True, slots=True)
class Question:
    """Which events of which hosts."""

    #: The jobs asked for by host; an empty list means all of them.
    jobs: Mapping[str, Sequence[str]]
    #: Only this many of the last ones, and what comes after. None: all there are.
    tail: int | None
    follow: bool

    @classmethod
    def of(
        cls, hosts: Sequence[str], jobs: Sequence[str], tail: int | None, *, follow: bool
    ) -> Question:
        """Return the question for these hosts, or only for those whose jobs are named.

        Raises:
            InvalidSpecError: A job does not say of which host it is.

        """
        if not jobs:
            return cls(dict.fromkeys(hosts, ()), tail, follow)
        named: dict[str, list[str]] = {}
        for reference in read_references(jobs, hosts):
            named.setdefault(reference.host, []).append(reference.job)
        return cls(named, tail, follow)


def events_of_hosts(
    question: Question, client_of: Callable[[str], Client], on_notice: OnNotice | None = None
) -> Iterator[Event | Silent]:
    """Yield events, and each host that could not be asked, or not to the end.

    Followed ones come as they happen, and a host that is away at the start joins when it is
    back: `on_notice` is told, in any thread, if that takes long. Others are merged by the
    clocks of their hosts, oldest first, with the silent hosts last. `client_of` is called in
    several threads at once.
    """
    if question.follow:
        return _followed(question, client_of, on_notice)
    return _merged(question, client_of)


def _merged(question: Question, client_of: Callable[[str], Client]) -> Iterator[Event | Silent]:
    def ask(client: Client) -> list[Event]:
        return list(_events(question, client))

    answers = ask_clients(client_of, ask, dict.fromkeys(question.jobs, _WAIT_S))
    events = [e for answer in answers if isinstance(answer, Answered) for e in answer.value]
    # Stable: of one host and one moment they stay in their own order.
    events.sort(key=lambda event: event.occurred_at)
    yield from events if question.tail is None else events[max(0, len(events) - question.tail) :]
    yield from (answer for answer in answers if isinstance(answer, Silent))


def _followed(
    question: Question, client_of: Callable[[str], Client], on_notice: OnNotice | None
) -> Iterator[Event | Silent]:
    events: queue.Queue[Event | Silent | Exception | None] = queue.Queue(_MOST_WAITING)

    def follow(host: str) -> None:
        try:
            with client_of(host) as client:
                for event in _events(question, client, on_notice):
                    events.put(event)
        except AgentctlError as error:
            events.put(Silent(host, error))
        except Exception as error:  # noqa: BLE001  # a fault of ours: raised again where it is seen
            events.put(error)
        events.put(None)

    for host in question.jobs:
        threading.Thread(target=follow, args=(host,), daemon=True).start()
    running = len(question.jobs)
    while running:
        item = events.get()
        if item is None:
            running -= 1
        elif isinstance(item, Exception):
            raise item
        else:
            yield item


def _events(
    question: Question, client: Client, on_notice: OnNotice | None = None
) -> Iterator[Event]:
    try:
        if question.follow and client.is_remote:
            jobs, after_seq = _joined(question, client, on_notice)
        else:
            jobs, after_seq = _place(question, client)
        yield from client.events(follow=question.follow, after_seq=after_seq, job_ids=jobs)
    except AgentNotRunningError:
        # Only where none was to be started: then nothing happens there either.
        return


def _place(question: Question, client: Client) -> tuple[list[int], int]:
    """Return the ids of the jobs asked for, and after which event to begin."""
    jobs = [_id_of(client, job) for job in question.jobs[client.host]]
    if question.tail is None:
        return jobs, 0
    return jobs, max(0, client.last_event_seq() - question.tail)


def _id_of(client: Client, reference: str) -> int:
    try:
        return client.find(reference).id
    except JobNotFoundError as error:
        raise explained(error, reference) from None


def _joined(
    question: Question, client: Client, on_notice: OnNotice | None
) -> tuple[list[int], int]:
    """Return the same once the host can be asked, however long that takes.

    Raises:
        AgentctlError: What does not pass by waiting.

    """
    from agentctl.api.patience import Patience
    from agentctl.api.trouble import Trouble

    trouble = Trouble(client.host, on_notice)
    trouble.begin("no answer yet")
    patience = Patience()
    try:
        while True:
            try:
                # One attempt, whose failure is known at once: a call would try for long.
                client.connection.line(_JOIN_WITHIN_S)
                place = _place(question, client)
            except TryAgainError as error:
                trouble.begin(str(error))
                patience.linger(math.inf)
            else:
                trouble.end()
                return place
    finally:
        trouble.drop()
