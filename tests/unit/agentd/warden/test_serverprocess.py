"""Starts a server, and starts it again: real processes in its place."""

from __future__ import annotations

import os
import select
import signal
import stat
import sys
import time
from pathlib import Path

import pytest

from agentd.core.contract import Message, Pause, Ready
from agentd.system.files import keep_only
from agentd.warden import serverprocess
from agentd.warden.serverprocess import ServerProcess
from tests.unit.agentd.system.sandbox import isolated


def server_running(directory: Path, script: str) -> ServerProcess:
    """Return a server process that will run this shell script in the interpreter's place."""
    program = directory / "server"
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="ascii")
    program.chmod(0o700)
    sys.executable = str(program)
    return ServerProcess(f"{directory}/stderr.log")


def hear(server: ServerProcess) -> list[Message | None]:
    """Return what the server says next."""
    assert server.channel is not None
    assert select.select([server.channel], [], [], 10)[0], "the server says nothing"
    return list(server.channel.receive())


def end(server: ServerProcess) -> int:
    """Wait for the server's end, take note of it and return its wait status."""
    assert server.pid is not None
    status = os.waitpid(server.pid, 0)[1]
    server.ended()
    return status


def log(directory: Path) -> str:
    """Return what the server wrote to stderr."""
    return (directory / "stderr.log").read_text(encoding="ascii")


@isolated
def test_a_server_gets_a_line_to_its_warden(tmp_path: Path) -> None:
    """In both directions, on the descriptor that its arguments name."""
    script = """
        echo "$@" >&2
        echo '{"type":"Ready","socket":"/run/x"}' >&3
        read -r line <&3 && echo "$line" >&3
    """
    server = server_running(tmp_path, script)

    server.spawn()

    assert hear(server) == [Ready("/run/x")]
    server.send(Pause(7))
    assert hear(server) == [Pause(7)]
    assert hear(server) == [None]
    assert end(server) == 0
    assert log(tmp_path) == "-P -m agentd server --warden-fd 3\n"


@isolated
def test_a_server_inherits_its_line_and_nothing_else(tmp_path: Path) -> None:
    """Neither the lock nor a job's descriptors; and reads nothing, writes to the log."""
    # What whoever started the tests has left open is not the point.
    keep_only(())
    held = os.open("/", os.O_RDONLY)
    server = server_running(tmp_path, "cat; echo printed; exec ls /proc/self/fd")

    server.spawn()

    assert end(server) == 0
    # The last is of ls itself.
    assert log(tmp_path) == "printed\n0\n1\n2\n3\n4\n"
    os.close(held)


@isolated
def test_a_server_has_the_signals_of_a_fresh_process(tmp_path: Path) -> None:
    """What its warden ignores or blocks would stay so across the exec."""
    for number in (signal.SIGPIPE, signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGCHLD})
    server = server_running(tmp_path, "exec grep -E 'Sig(Blk|Ign)' /proc/self/status")

    server.spawn()

    assert end(server) == 0
    masks = dict(line.split(":\t") for line in log(tmp_path).splitlines())
    assert int(masks["SigBlk"], 16) == 0
    ignored = int(masks["SigIgn"], 16)
    assert not ignored & sum(1 << (n - 1) for n in (1, 2, 13, 15)), hex(ignored)


@isolated
def test_the_log_is_private_and_is_added_to(tmp_path: Path) -> None:
    """By each server after the other."""
    server = server_running(tmp_path, "echo again")
    for _ in range(2):
        server.spawn()
        end(server)

    assert log(tmp_path) == "again\nagain\n"
    assert stat.S_IMODE((tmp_path / "stderr.log").stat().st_mode) == 0o600


@isolated
def test_the_first_server_is_due_at_once_and_one_at_a_time(tmp_path: Path) -> None:
    """While one runs none is due."""
    server = server_running(tmp_path, "exec sleep 600")
    due_s = server.due_s()
    assert due_s is not None
    assert due_s <= time.monotonic()

    server.spawn()

    assert server.due_s() is None


def delay_s(server: ServerProcess) -> float:
    """Return in how many seconds the next server is due."""
    due_s = server.due_s()
    assert due_s is not None
    return due_s - time.monotonic()


@isolated
def test_a_server_that_keeps_failing_is_started_ever_less_often(tmp_path: Path) -> None:
    """At once, then after pauses that double, half a minute at most."""
    server = server_running(tmp_path, "exit 1")
    delays: list[float] = []

    for _ in range(12):
        server.spawn()
        end(server)
        delays.append(delay_s(server))

    assert delays == pytest.approx(
        [0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30], abs=0.05
    )


@isolated
def test_a_server_that_lived_a_while_is_started_again_at_once(tmp_path: Path) -> None:
    """Whatever had been before."""
    server = server_running(tmp_path, "exit 1")
    for _ in range(5):
        server.spawn()
        end(server)
    real = time.monotonic

    server.spawn()
    serverprocess.time.monotonic = lambda: real() + 11  # type: ignore[attr-defined]
    end(server)

    assert delay_s(server) <= 0


@isolated
def test_a_server_that_does_not_drain_is_killed(tmp_path: Path) -> None:
    """And killing one that is gone does no harm."""
    server = server_running(tmp_path, "trap '' TERM; exec sleep 600")
    server.kill()
    server.spawn()

    server.kill()

    assert end(server) == signal.SIGKILL
    server.kill()


@isolated
def test_once_given_up_no_server_is_due(tmp_path: Path) -> None:
    """Neither while the last one drains nor after it."""
    server = server_running(tmp_path, "exit 0")
    server.spawn()

    server.give_up()

    assert server.due_s() is None
    end(server)
    assert server.due_s() is None


@isolated
def test_without_a_server_a_message_is_lost(tmp_path: Path) -> None:
    """The next one learns it from the files."""
    server_running(tmp_path, "exit 0").send(Pause(7))
