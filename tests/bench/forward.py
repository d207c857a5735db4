"""A port of a host at a port of this machine, ours beside `ssh -L`, over the same sshd."""

from __future__ import annotations

import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from tests.bench.remote import plain_ssh, warm_rig
from tests.bench.stage import Stage
from tests.bench.table import Row, interleaved
from tests.helpers.sshrig import SshRig
from tests.helpers.wait import wait_until

SIZE_BYTES = 256 << 20
RUNS = 5
ROUND_TRIPS = 500
CONNECTIONS = 50
THROUGHPUT_RATIO = 0.5
LATENCY_RATIO = 3.0
_CHUNK_BYTES = 256 << 10

#: What is forwarded to. The first byte of a connection says what it is for: to be sent SIZE
#: bytes, to take SIZE bytes and then say one, or to have each byte said back.
_TARGET = """
import socket, sys, threading

size, chunk = int(sys.argv[1]), int(sys.argv[2])
block = bytes(chunk)

def serve(end):
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    into = bytearray(chunk)
    with end:
        what = end.recv(1)
        if what == b"d":
            for _ in range(size // chunk):
                end.sendall(block)
        elif what == b"u":
            left = size
            while left and (got := end.recv_into(into)):
                left -= got
            end.sendall(b"." if left == 0 else b"!")
        while data := end.recv(1):
            end.sendall(data)

with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
    print(listener.getsockname()[1], flush=True)
    while True:
        threading.Thread(target=serve, args=listener.accept()[:1], daemon=True).start()
"""


def measure(_stage: Stage) -> list[Row]:
    """Return throughput both ways and delay through `agentctl forward` and `ssh -L`."""
    with (
        warm_rig() as (rig, _),
        _target() as target,
        _forwarded(rig, target) as ours,
        _ssh_forwarded(rig, target) as theirs,
    ):
        return [
            _throughput("forward, from the host", _download_mb_s, ours, theirs),
            _throughput("forward, to the host", _upload_mb_s, ours, theirs),
            _delay("forward, there and back", _round_trip_ms, ours, theirs, LATENCY_RATIO),
            _delay("forward, new connection, there and back", _connect_ms, ours, theirs, None),
        ]


def _throughput(what: str, measured: Callable[[int], float], ours: int, theirs: int) -> Row:
    mb_s, ssh_mb_s = interleaved(RUNS, partial(measured, ours), partial(measured, theirs))
    budget = f">= {THROUGHPUT_RATIO:g} x"
    return Row(what, mb_s, "MB/s", "ssh -L", ssh_mb_s, budget, mb_s >= THROUGHPUT_RATIO * ssh_mb_s)


def _delay(
    what: str, measured: Callable[[int], float], ours: int, theirs: int, ratio: float | None
) -> Row:
    ms, ssh_ms = interleaved(RUNS, partial(measured, ours), partial(measured, theirs))
    if ratio is None:
        return Row(what, ms, "ms", "ssh -L", ssh_ms)
    return Row(what, ms, "ms", "ssh -L", ssh_ms, f"<= {ratio:g} x", ms <= ratio * ssh_ms)


@contextmanager
def _target() -> Iterator[int]:
    """Yield the port of a listener that stands for a job's server."""
    words = [sys.executable, "-I", "-S", "-c", _TARGET, str(SIZE_BYTES), str(_CHUNK_BYTES)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


@contextmanager
def _forwarded(rig: SshRig, target: int) -> Iterator[int]:
    """Yield the local port of an `agentctl forward` to the target."""
    process = rig.client.popen(
        *("-H", rig.destination, "forward", str(target)),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with process:
        assert process.stdout is not None
        try:
            # The target has its own port on the same machine: the local one is another.
            told = re.match(rb"http://127\.0\.0\.1:(\d+)  ", process.stdout.readline())
            assert told is not None
            yield int(told[1])
        finally:
            process.terminate()


@contextmanager
def _ssh_forwarded(rig: SshRig, target: int) -> Iterator[int]:
    """Yield the local port of an `ssh -L` to the target."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    with plain_ssh(rig, "-L", f"127.0.0.1:{port}:127.0.0.1:{target}"):
        wait_until(partial(_answers, port), what="ssh's local port")
        yield port


def _answers(port: int) -> bool:
    with socket.socket() as end:
        return end.connect_ex(("127.0.0.1", port)) == 0


def _connect(port: int, what: bytes) -> socket.socket:
    end = socket.create_connection(("127.0.0.1", port), timeout=60)
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    end.sendall(what)
    return end


def _download_mb_s(port: int) -> float:
    into = bytearray(_CHUNK_BYTES)
    with _connect(port, b"d") as end:
        began_s = time.monotonic()
        left = SIZE_BYTES
        while left and (got := end.recv_into(into)):
            left -= got
        assert left == 0
        return SIZE_BYTES / 1e6 / (time.monotonic() - began_s)


def _upload_mb_s(port: int) -> float:
    block = bytes(_CHUNK_BYTES)
    with _connect(port, b"u") as end:
        began_s = time.monotonic()
        for _ in range(SIZE_BYTES // _CHUNK_BYTES):
            end.sendall(block)
        # All of it has arrived, and not only left.
        assert end.recv(1) == b"."
        return SIZE_BYTES / 1e6 / (time.monotonic() - began_s)


def _round_trip_ms(port: int) -> float:
    with _connect(port, b"e") as end:
        end.sendall(b"x")
        assert end.recv(1) == b"x"
        return statistics.median(_exchange_ms(end) for _ in range(ROUND_TRIPS))


def _exchange_ms(end: socket.socket) -> float:
    began_s = time.monotonic()
    end.sendall(b"x")
    assert end.recv(1) == b"x"
    return 1000 * (time.monotonic() - began_s)


def _connect_ms(port: int) -> float:
    return statistics.median(_one_connection_ms(port) for _ in range(CONNECTIONS))


def _one_connection_ms(port: int) -> float:
    began_s = time.monotonic()
    with _connect(port, b"ex") as end:
        assert end.recv(1) == b"x"
        return 1000 * (time.monotonic() - began_s)
