"""The warden's one loop: who waits for what, and what is due when."""

from __future__ import annotations

import select
import time
import traceback
from collections.abc import Callable, Iterable
from typing import Protocol

from agentd.system.complaint import complain

_AFTER_DEFECT_S = 0.05


class Duty(Protocol):
    """Something to be done at a time of its own: guarding, launching, restarting."""

    def due_s(self) -> float | None:
        """Return when, on the monotonic clock; None for not at all."""

    def run(self) -> None:
        """Do a little of it; called again until nothing is due."""


class Loop:
    """One epoll, one thread. A handler must return soon: the guard waits for its turn."""

    def __init__(self) -> None:
        """Begin with nobody waiting."""
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._duties: list[Duty] = []
        self._urgent: list[Duty] = []
        self._running = True

    def watch(
        self, descriptor: int, handler: Callable[[int], None], events: int = select.EPOLLIN
    ) -> None:
        """Call `handler` with the epoll events whenever `descriptor` is readable, or as named."""
        self._handlers[descriptor] = handler
        self._epoll.register(descriptor, events)

    def wait_to_write(self, descriptor: int) -> None:
        """Wake up for room to write as well."""
        self._epoll.modify(descriptor, select.EPOLLIN | select.EPOLLOUT)

    def wait_to_read(self, descriptor: int) -> None:
        """Wake up for something to read only."""
        self._epoll.modify(descriptor, select.EPOLLIN)

    def forget(self, descriptor: int) -> None:
        """Stop watching; before the descriptor is closed."""
        if self._handlers.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def add_duty(self, duty: Duty) -> None:
        """Look at `duty` once a turn, in the order they were added: the most urgent first."""
        self._duties.append(duty)

    def add_urgent_duty(self, duty: Duty) -> None:
        """Look at `duty` between any two handlers and duties: it waits for one at most."""
        self._urgent.append(duty)

    def stop(self) -> None:
        """Return from `run` after this turn."""
        self._running = False

    def run(self) -> None:
        """Serve until `stop`."""
        while self._running:
            ready = self._epoll.poll(self._wait_s())
            self._look_at(self._urgent)
            for descriptor, events in ready:
                # An earlier handler of this turn may have closed a later one's descriptor.
                handler = self._handlers.get(descriptor)
                if handler is not None:
                    _never_fail(handler, events)
                    self._look_at(self._urgent)
            for duty in self._duties:
                self._look_at((duty, *self._urgent))

    @staticmethod
    def _look_at(duties: Iterable[Duty]) -> None:
        for duty in duties:
            due_s = duty.due_s()
            if due_s is not None and due_s <= time.monotonic():
                _never_fail(duty.run)

    def _wait_s(self) -> float | None:
        duties = (*self._urgent, *self._duties)
        due = [at_s for duty in duties if (at_s := duty.due_s()) is not None]
        return max(0.0, min(due) - time.monotonic()) if due else None


def _never_fail(act: Callable[..., None], *arguments: int) -> None:
    """Act; a defect in one handler must not end the process that guards all jobs."""
    try:
        act(*arguments)
    except Exception:  # noqa: BLE001  # said in full in the agent's stderr.log
        complain(traceback.format_exc())
        # Should it fail at every turn, the log must not fill the disk.
        time.sleep(_AFTER_DEFECT_S)
