"""The near end of a bridge, with a program of this machine in place of ssh."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agentctl.link.ssh import bridge
from agentctl.link.ssh.remote import FarAgent
from tests.helpers.processes import children_of
from tests.helpers.wait import wait_until

_MEANT = FarAgent("gpu1", "/s")
_NEVER = "exec sleep 600"


def _greeting(state_dir: str = _MEANT.state_dir) -> str:
    body = {
        "version": "0",
        "api_level": 1,
        "socket": "/r/a",
        "state_dir": state_dir,
        "hostname": _MEANT.hostname,
    }
    return json.dumps(body)


@contextmanager
def _connected(directory: Path, script: str) -> Iterator[socket.socket]:
    """Yield a connection through a bridge; MARK in the script is what must come first."""
    bridging = bridge.Bridge(
        str(directory),
        "0123456789abcdef",
        lambda mark: ["sh", "-c", script.replace("MARK", mark)],
        _MEANT,
    )
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(bridging.path)
            connection.settimeout(20)
            yield connection
    finally:
        bridging.close()
    wait_until(_is_quiet, what="no program left")


def _is_quiet() -> bool:
    """Say whether no program of this process runs."""
    return not children_of(os.getpid())


def test_a_connection_ends_with_its_client_also_before_the_mark(tmp_path: Path) -> None:
    """A session that hangs does not stay for somebody who is gone."""
    with _connected(tmp_path, _NEVER) as connection:
        wait_until(lambda: not _is_quiet(), what="the program runs")
        connection.sendall(b"what gRPC says at once")
        connection.close()
        wait_until(_is_quiet, what="the program is gone")


def test_a_mark_that_does_not_come_is_not_waited_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client sees an end, and its link looks deeper."""
    monkeypatch.setattr(bridge, "_MARK_WITHIN_S", 0.2)
    with _connected(tmp_path, _NEVER) as connection:
        assert connection.recv(1) == b""


@pytest.mark.parametrize("pause", ["", "sleep 0.1;"])
@pytest.mark.parametrize("noise", ["", "echo noise;", "printf 0123456789abcdef;"])
def test_what_stands_behind_the_mark_is_handed_on(tmp_path: Path, noise: str, pause: str) -> None:
    """Whatever comes before it, and in however many pieces."""
    script = f"{noise} printf MARK; {pause} printf ' %s' '{_greeting()}'; {pause} echo; {pause} cat"
    with _connected(tmp_path, script) as connection:
        connection.sendall(b"there and back")
        got = b""
        while len(got) < len(b"there and back"):
            got += connection.recv(64)
        assert got == b"there and back"


@pytest.mark.parametrize(
    "line", [_greeting("/another"), "{}", '{"api_level": 1e999}', "x" * 100_000]
)
def test_an_agent_that_is_not_meant_gets_nothing(tmp_path: Path, line: str) -> None:
    """Another one behind the same launcher, or what cannot be understood."""
    with _connected(tmp_path, f"echo MARK '{line}'; exec cat") as connection:
        assert connection.recv(64) == b""


def test_noise_takes_time_in_proportion(tmp_path: Path) -> None:
    """A megabyte in 10 000 pieces is searched once, and not at each piece anew."""
    near, far = socket.socketpair()
    # Each write is one piece for who reads (pipe(2), O_DIRECT).
    source, sink = os.pipe2(os.O_DIRECT | os.O_CLOEXEC)

    def make_noise() -> None:
        for _ in range(10_000):
            os.write(sink, b"n" * 100)
        os.write(sink, b"mark hello\nrest")
        os.close(sink)

    noise = threading.Thread(target=make_noise)
    with near, far:
        noise.start()
        began_s = time.thread_time()
        found = bridge._marked_line(near, source, b"mark ")
        took_s = time.thread_time() - began_s
        noise.join()
    os.close(source)

    assert found == (b"mark hello\n", b"rest")
    assert took_s < 1
