"""The warden's one loop: it serves everybody, and nobody can end it by mistake."""

from __future__ import annotations

import os
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from agentd.warden.loop import Loop
from tests.unit.agentd.system.sandbox import isolated


class Pipe:
    """A pipe that is readable from the beginning."""

    def __init__(self) -> None:
        """Write a byte into it."""
        self.read_end, self.write_end = os.pipe()
        os.write(self.write_end, b"!")


@pytest.fixture(name="pipes")
def _pipes() -> Iterator[tuple[Pipe, Pipe]]:
    """Yield two readable pipes; afterwards they are closed."""
    pipes = Pipe(), Pipe()
    yield pipes
    for pipe in pipes:
        os.close(pipe.read_end)
        os.close(pipe.write_end)


class Errand:
    """A duty that is done a number of times."""

    def __init__(self, act: Callable[[], object], times: int = 1, at_s: float = 0.0) -> None:
        """Do `act` so many times from `at_s` on."""
        self._act = act
        self._at_s = at_s
        self.left = times
        self.looks = 0

    def due_s(self) -> float | None:
        """Return when it is due, as long as something is left."""
        self.looks += 1
        return self._at_s if self.left else None

    def run(self) -> None:
        """Do it once."""
        self.left -= 1
        self._act()


def test_a_handler_is_called_when_there_is_something_to_read(pipes: tuple[Pipe, Pipe]) -> None:
    """With the events, until the loop is stopped."""
    loop = Loop()
    seen: list[int] = []

    def read(events: int) -> None:
        seen.append(events)
        os.read(pipes[0].read_end, 1)
        loop.stop()

    loop.watch(pipes[0].read_end, read)
    loop.run()

    assert seen == [select.EPOLLIN]


def test_a_handler_that_fails_does_not_end_the_loop(
    pipes: tuple[Pipe, Pipe], capfd: pytest.CaptureFixture[str]
) -> None:
    """It is called again, the others too; the defect is said in full."""
    loop = Loop()
    calls: list[str] = []

    def fail(_events: int) -> None:
        calls.append("failing")
        raise RuntimeError("a defect in a handler")

    def count(_events: int) -> None:
        calls.append("other")
        if calls.count("failing") >= 2:
            loop.stop()

    loop.watch(pipes[0].read_end, fail)
    loop.watch(pipes[1].read_end, count)
    loop.run()

    assert calls.count("other") >= 2
    assert capfd.readouterr().err.count("RuntimeError: a defect in a handler") >= 2


def test_a_duty_that_fails_does_not_end_the_loop(capfd: pytest.CaptureFixture[str]) -> None:
    """The next one has its turn."""
    loop = Loop()

    def fail() -> None:
        raise OSError("a defect in a duty")

    failing, last = Errand(fail, times=2), Errand(loop.stop, at_s=time.monotonic() + 0.01)
    loop.add_duty(failing)
    loop.add_duty(last)
    loop.run()

    assert failing.left <= 1
    assert "OSError: a defect in a duty" in capfd.readouterr().err


@isolated
def test_a_defect_that_cannot_be_told_does_not_end_the_loop() -> None:
    """Stderr is a file on a disk that may be full."""
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, 2)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    loop = Loop()

    def fail() -> None:
        raise OSError("a defect in a duty")

    failing = Errand(fail)
    loop.add_duty(failing)
    loop.add_duty(Errand(loop.stop, at_s=time.monotonic() + 0.01))
    loop.run()

    assert failing.left == 0


@pytest.mark.parametrize("wanted", [SystemExit, KeyboardInterrupt])
def test_who_wants_to_end_the_process_does(
    pipes: tuple[Pipe, Pipe], wanted: type[BaseException]
) -> None:
    """Only defects are survived."""
    loop = Loop()

    def leave(_events: int) -> None:
        raise wanted

    loop.watch(pipes[0].read_end, leave)

    with pytest.raises(wanted):
        loop.run()


def test_a_forgotten_descriptor_is_not_called_in_the_same_turn(pipes: tuple[Pipe, Pipe]) -> None:
    """Both are ready; whoever is first closes the other, whose number may be in use again."""
    loop = Loop()
    calls: list[int] = []

    def forget_the_other(descriptor: int, other: int) -> Callable[[int], None]:
        def handle(_events: int) -> None:
            calls.append(descriptor)
            loop.forget(other)
            loop.stop()

        return handle

    first, second = (pipe.read_end for pipe in pipes)
    loop.watch(first, forget_the_other(first, second))
    loop.watch(second, forget_the_other(second, first))
    loop.run()

    assert len(calls) == 1


def test_forgetting_what_is_not_watched_does_no_harm(pipes: tuple[Pipe, Pipe]) -> None:
    """Twice, or never watched; and it may be watched again."""
    loop = Loop()
    descriptor = pipes[0].read_end
    loop.forget(descriptor)
    loop.watch(descriptor, lambda _events: None)
    loop.forget(descriptor)
    loop.forget(descriptor)

    loop.watch(descriptor, lambda _events: loop.stop())
    loop.run()


def test_room_to_write_is_told_only_while_it_is_waited_for() -> None:
    """A line with a backlog waits for it; else it would be told all the time."""
    loop = Loop()
    ours, theirs = socket.socketpair()
    seen: list[int] = []

    def handle(events: int) -> None:
        seen.append(events)
        if len(seen) == 1:
            loop.wait_to_read(ours.fileno())
            theirs.send(b"!")
        else:
            loop.stop()

    loop.watch(ours.fileno(), handle)
    loop.wait_to_write(ours.fileno())
    loop.run()

    assert seen == [select.EPOLLOUT, select.EPOLLIN]
    ours.close()
    theirs.close()


def test_duties_have_their_turn_in_order_once_each() -> None:
    """The most urgent first, a little of each, until nothing is due."""
    loop = Loop()
    done: list[str] = []
    loop.add_duty(Errand(lambda: done.append("guard"), times=3))
    loop.add_duty(Errand(lambda: done.append("launch"), times=2))

    def last() -> None:
        done.append("last")
        if len(done) >= 8:
            loop.stop()

    loop.add_duty(Errand(last, times=9))
    loop.run()

    assert done == ["guard", "launch", "last", "guard", "launch", "last", "guard", "last"]


def test_a_duty_is_done_when_it_is_due_and_not_before() -> None:
    """Until then the loop sleeps."""
    loop = Loop()
    due_s = time.monotonic() + 0.05
    done_s: list[float] = []

    def do() -> None:
        done_s.append(time.monotonic())
        loop.stop()

    errand = Errand(do, at_s=due_s)
    loop.add_duty(errand)
    loop.add_duty(Errand(loop.stop, times=0))

    loop.run()

    assert done_s[0] >= due_s
    assert errand.looks < 20


def test_between_two_duties_descriptors_are_served(pipes: tuple[Pipe, Pipe]) -> None:
    """However much there is to do."""
    loop = Loop()
    work = Errand(lambda: None, times=1_000_000)
    loop.add_duty(work)
    loop.watch(pipes[0].read_end, lambda _events: loop.stop())

    loop.run()

    assert work.left > 999_000


def test_an_urgent_duty_waits_for_one_handler_at_most(pipes: tuple[Pipe, Pipe]) -> None:
    """Also when many descriptors are ready at once."""
    loop = Loop()
    story: list[str] = []
    urgent = Errand(lambda: story.append("urgent"), times=100)

    def read(pipe: Pipe) -> Callable[[int], None]:
        def handle(_events: int) -> None:
            story.append("handler")
            os.read(pipe.read_end, 1)
            if story.count("handler") == len(pipes):
                loop.stop()

        return handle

    for pipe in pipes:
        loop.watch(pipe.read_end, read(pipe))
    loop.add_duty(Errand(lambda: story.append("duty"), times=2))
    loop.add_urgent_duty(urgent)
    loop.run()

    words = " ".join(story)
    assert words.startswith("urgent handler urgent handler urgent")
    for word in ("handler", "duty"):
        assert f"{word} handler" not in words
        assert f"{word} duty" not in words


def test_an_urgent_duty_ends_the_wait(pipes: tuple[Pipe, Pipe]) -> None:
    """It is waited for as for any other."""
    loop = Loop()
    for pipe in pipes:
        os.read(pipe.read_end, 1)
    loop.add_urgent_duty(Errand(loop.stop, at_s=time.monotonic() + 0.02))

    loop.run()


def test_a_descriptor_may_be_watched_for_something_else() -> None:
    """The kernel's word of pressure is urgent data (EPOLLPRI)."""
    loop = Loop()
    listener = socket.create_server(("127.0.0.1", 0))
    sender = socket.create_connection(listener.getsockname())
    receiver, _ = listener.accept()
    seen: list[int] = []

    def note(events: int) -> None:
        seen.append(events)
        loop.stop()

    loop.watch(receiver.fileno(), note, select.EPOLLPRI)
    sender.send(b"!", socket.MSG_OOB)
    loop.run()

    assert seen == [select.EPOLLPRI]
    for end in (listener, sender, receiver):
        end.close()
