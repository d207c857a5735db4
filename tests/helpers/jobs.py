"""Small programs for tests to run as jobs, each with one property worth testing.

`printer(…)` and its like return the argument vector; this file is also the program that
vector runs, with `python -I -S` so that it starts fast and imports nothing of ours.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Printer:
    """A job that prints, and what it prints."""

    argv: tuple[str, ...]
    size_bytes: int
    sha256: str


def printer(size_bytes: int, *, seed: int = 0, exit_code: int = 0, pause_s: float = 0) -> Printer:
    """Return a job that prints `size_bytes` pseudo-random bytes and exits with `exit_code`.

    It writes in pieces of uneven size, `pause_s` seconds apart.
    """
    digest = hashlib.sha256()
    for piece in _pieces(size_bytes, seed):
        digest.update(piece)
    arguments = (str(size_bytes), str(seed), str(exit_code), str(pause_s))
    return Printer(_argv("print", *arguments), size_bytes, digest.hexdigest())


def sleeper(pid_file: str = "", seconds: float = 3600) -> tuple[str, ...]:
    """Return a job that writes its pid to `pid_file`, if given, and sleeps."""
    return _argv("sleep", pid_file, str(seconds))


def term_ignorer(ready_file: str) -> tuple[str, ...]:
    """Return a job that ignores TERM, INT and HUP and makes `ready_file` once it does."""
    return _argv("ignore-term", ready_file)


def escaper(pid_file: str) -> tuple[str, ...]:
    """Return a job whose children leave by setsid and double fork.

    It appends the pid of each of three to `pid_file`, one a line, and sleeps.
    """
    return _argv("escape", pid_file)


def fork_while_stopped(pid_file: str) -> tuple[str, ...]:
    """Return a job that answers each TERM by forking a child that does the same.

    Every process appends its pid to `pid_file`; sixty-four of them at most.
    """
    return _argv("fork-on-term", pid_file)


def hopper(pid_file: str, chains: int = 6) -> tuple[str, ...]:
    """Return a job that is never the same processes: each forks its successor and exits.

    They ignore SIGTERM; half of the chains leave the session too. The leader notes its pid and
    sleeps.
    """
    return _argv("hop", pid_file, str(chains))


def term_counter(term_file: str, ready_file: str) -> tuple[str, ...]:
    """Return a job that writes a checkpoint at SIGTERM, which takes half a second.

    It and a child of its session append a line to `term_file` for each SIGTERM; exits with 4.
    """
    return _argv("count-term", term_file, ready_file)


def headless(pid_file: str) -> tuple[str, ...]:
    """Return a job whose first thread ends at once: ps shows a zombie, and it runs on.

    Another thread notes the pid and sleeps; SIGTERM ends it as usual.
    """
    return _argv("headless", pid_file)


def exits(code: int) -> tuple[str, ...]:
    """Return a job that exits with `code` at once."""
    return ("/bin/sh", "-c", f"exit {code}")


def dies_by(signal_number: int) -> tuple[str, ...]:
    """Return a job that kills itself with the signal."""
    return ("/bin/sh", "-c", f"kill -{signal_number} $$")


def counter(path: str, then: str = "true") -> tuple[str, ...]:
    """Return a job that appends one line to `path`, the proof of how often it ran."""
    return ("/bin/sh", "-c", f'echo "$AGENTCTL_JOB_ID" >> "$0"; {then}', path)


def read_pids(path: str) -> list[int]:
    """Return the pids a job has written so far, none if there is no file yet."""
    try:
        with open(path, encoding="ascii") as file:
            return [int(line) for line in file.read().split("\n")[:-1]]
    except FileNotFoundError:
        return []


def _argv(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", os.path.abspath(__file__), *arguments)


def _pieces(size_bytes: int, seed: int) -> Iterator[bytes]:
    chance = random.Random(seed)
    left = size_bytes
    while left > 0:
        piece = chance.randbytes(min(left, chance.randint(1, 100_000)))
        left -= len(piece)
        yield piece


def _note_pid(path: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(descriptor, b"%d\n" % os.getpid())
    os.close(descriptor)


def _print(size: str, seed: str, exit_code: str, pause_s: str) -> None:
    for piece in _pieces(int(size), int(seed)):
        sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
        time.sleep(float(pause_s))
    sys.exit(int(exit_code))


def _sleep(pid_file: str, seconds: str) -> None:
    if pid_file:
        _note_pid(pid_file)
    time.sleep(float(seconds))


def _ignore_term(ready_file: str) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _note_pid(ready_file)
    while True:
        time.sleep(60)


def _escape(pid_file: str) -> None:
    for _ in range(3):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                _note_pid(pid_file)
                time.sleep(3600)
            os._exit(0)
        os.wait()
    time.sleep(3600)


def _fork_on_term(pid_file: str) -> None:
    def fork(_number: int, _frame: object) -> None:
        if len(read_pids(pid_file)) < 64 and os.fork() == 0:
            _note_pid(pid_file)

    signal.signal(signal.SIGTERM, fork)
    _note_pid(pid_file)
    while True:
        time.sleep(60)


def _hop(pid_file: str, chains: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    until_s = time.monotonic() + 60
    for number in range(int(chains)):
        if os.fork() == 0:
            # Bounded: should a test fail, the machine must not be hopped on for ever.
            while time.monotonic() < until_s:
                if number % 2:
                    os.setsid()
                time.sleep(0.002)
                if os.fork():
                    os._exit(0)
            os._exit(0)
    _note_pid(pid_file)
    while True:
        time.sleep(60)


def _count_term(term_file: str, ready_file: str) -> None:
    signal.signal(signal.SIGTERM, lambda _number, _frame: _note_pid(term_file))
    _note_pid(ready_file)
    if os.fork() == 0:
        os.setsid()
        _note_pid(ready_file)
    while not read_pids(term_file):
        # Not pause(): a signal just before it would be heeded only after it, that is, never.
        signal.sigtimedwait((), 0.1)
    end_s = time.monotonic() + 0.5
    while time.monotonic() < end_s:
        time.sleep(0.05)
    sys.exit(4)


def _headless(pid_file: str) -> None:
    def go_on() -> None:
        while _state_of(os.getpid()) != "Z":
            time.sleep(0.005)
        _note_pid(pid_file)
        time.sleep(3600)

    threading.Thread(target=go_on).start()
    # exit(2) itself, which ends one thread; the C library's ends them all. It is 93 but on x86.
    ctypes.CDLL(None).syscall(60 if platform.machine() == "x86_64" else 93, 0)


def _state_of(pid: int) -> str:
    """Return the state of a process as ps shows it: that of its first thread."""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        return file.read().rpartition(") ")[2][0]


_PROGRAMS: dict[str, Callable[..., None]] = {
    "print": _print,
    "sleep": _sleep,
    "ignore-term": _ignore_term,
    "escape": _escape,
    "fork-on-term": _fork_on_term,
    "hop": _hop,
    "count-term": _count_term,
    "headless": _headless,
}

if __name__ == "__main__":
    _PROGRAMS[sys.argv[1]](*sys.argv[2:])
