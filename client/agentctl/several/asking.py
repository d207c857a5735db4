"""Asking several hosts at the same time: a thread each, and nobody waits for the slowest."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from agentctl.errors import AgentctlError, TryAgainError

if TYPE_CHECKING:
    from agentctl.api.client import Client

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answered(Generic[T]):
    """What a host said."""

    host: str
    value: T


@dataclass(frozen=True, slots=True)
class Silent:
    """A host that did not answer, or not yet. Says nothing about its jobs."""

    host: str
    why: AgentctlError


def ask_all(ask: Callable[[str], T], wait_s: Mapping[str, float]) -> list[Answered[T] | Silent]:
    """Call `ask` with every host of `wait_s` at once; return what came, in the same order.

    A host is waited for as many seconds as `wait_s` says, and while others are: whoever
    answers meanwhile has answered. What is still on its way then goes on in daemon threads.
    """
    answers: queue.SimpleQueue[Answered[T] | Silent | BaseException] = queue.SimpleQueue()
    began_s = time.monotonic()
    for host in wait_s:
        threading.Thread(target=_ask_one, args=(host, ask, answers), daemon=True).start()
    found: dict[str, Answered[T] | Silent] = {}
    while len(found) < len(wait_s):
        longest_s = max(wait for host, wait in wait_s.items() if host not in found)
        left_s = began_s + longest_s - time.monotonic()
        try:
            answer = answers.get(timeout=max(0.0, left_s))
        except queue.Empty:
            break
        if isinstance(answer, BaseException):
            raise answer
        found[answer.host] = answer
    return [found.get(host) or _late(host, wait) for host, wait in wait_s.items()]


def ask_clients(
    client_of: Callable[[str], Client], ask: Callable[[Client], T], wait_s: Mapping[str, float]
) -> list[Answered[T] | Silent]:
    """Do as `ask_all` with the client of each host; who is late is given up.

    Nothing goes on then for those hosts but a login that asks nobody, for whoever comes next.
    """
    opened: list[Client] = []

    def ask_host(host: str) -> T:
        with client_of(host) as client:
            opened.append(client)
            return ask(client)

    try:
        return ask_all(ask_host, wait_s)
    finally:
        for client in tuple(opened):
            client.close()


def _late(host: str, wait_s: float) -> Silent:
    return Silent(host, TryAgainError(f"no answer within {wait_s:g} s"))


def _ask_one(
    host: str,
    ask: Callable[[str], T],
    answers: queue.SimpleQueue[Answered[T] | Silent | BaseException],
) -> None:
    try:
        answers.put(Answered(host, ask(host)))
    except AgentctlError as error:
        answers.put(Silent(host, error))
    except Exception as error:  # noqa: BLE001  # a fault of ours: raised again where it is seen
        answers.put(error)


def do_all(acts: Sequence[Callable[[], T]]) -> list[T | AgentctlError]:
    """Do everything at once and wait for all; return results and errors in the same order."""
    results: list[T | AgentctlError | None] = [None] * len(acts)
    faults: list[Exception] = []

    def do(number: int) -> None:
        try:
            results[number] = acts[number]()
        except AgentctlError as error:
            results[number] = error
        except Exception as error:  # noqa: BLE001  # a fault of ours: raised again where it is seen
            faults.append(error)

    threads = [
        threading.Thread(target=do, args=(number,), daemon=True) for number in range(len(acts))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise faults[0]
    return [result for result in results if result is not None]
