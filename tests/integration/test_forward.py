"""`agentctl forward`: ports of jobs and of the host at ports of this machine."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from agentctl.forward.places import Memory
from agentctl.paths import state_directory
from tests.helpers.agent import Agent
from tests.helpers.jobs import sleeper
from tests.helpers.wait import is_alive, wait_until

#: Serves HTTP on a port of its own, which it writes to the file named first.
_WEB = """
import os, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = b"hello from " + self.path.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
with open(sys.argv[1] + ".new", "w") as file:
    file.write(str(server.server_address[1]))
os.rename(sys.argv[1] + ".new", sys.argv[1])
server.serve_forever()
"""
#: Answers on a unix socket with what it was told, once it was told all.
_UNIX_ECHO = """
import socket, sys
with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(sys.argv[1])
    listener.listen()
    while True:
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as file:
            connection.sendall(file.read())
"""


@dataclass
class Forward:
    """A running `agentctl forward`, and the first line that it printed."""

    process: subprocess.Popen[bytes]
    line: str
    said_to: str

    @property
    def port(self) -> int:
        """The local port."""
        found = re.match(r"http://127\.0\.0\.1:(\d+)  ", self.line)
        assert found, self.line
        return int(found[1])

    def said(self) -> str:
        """Return what it has complained so far."""
        with open(self.said_to, encoding="utf-8") as file:
            return file.read()

    def connect(self) -> socket.socket:
        """Connect to the local port."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)


@contextmanager
def forwarding(agent: Agent, *words: str) -> Iterator[Forward]:
    """Run `agentctl forward WORDS` within the block; nothing listens there afterwards."""
    said_to = f"{agent.root}/forward.{random.getrandbits(32)}"
    with open(said_to, "wb") as said:
        process = agent.popen("forward", *words, stdout=subprocess.PIPE, stderr=said)
    try:
        assert process.stdout is not None
        forward = Forward(process, process.stdout.readline().decode(), said_to)
        assert forward.line, forward.said()
        yield forward
    finally:
        process.kill()
        process.communicate()
    with pytest.raises(ConnectionRefusedError):
        forward.connect()


@dataclass
class Server:
    """A listener of the test's own: a port of the host that belongs to no job."""

    listener: socket.socket

    @property
    def port(self) -> int:
        """Where it listens."""
        number: int = self.listener.getsockname()[1]
        return number

    def accept(self) -> socket.socket:
        """Take one connection."""
        connection, _ = self.listener.accept()
        connection.settimeout(30)
        return connection


@pytest.fixture(name="server")
def _server() -> Iterator[Server]:
    """Yield a listener on loopback."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(30)
        yield Server(listener)


def web_job(agent: Agent, *words: str) -> tuple[int, int]:
    """Submit a job that serves HTTP; return its id and its port."""
    file = f"{agent.home}/port"
    submitted = agent.cli("submit", *words, "--", sys.executable, "-c", _WEB, file, check=True)
    wait_until(lambda: os.path.exists(file), what="the job's port")
    with open(file, encoding="ascii") as written:
        number = int(written.read())
    os.unlink(file)
    return int(submitted.stdout), number


def get(port: int, path: str = "/") -> str:
    """Return what HTTP answers there."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path)
        return connection.getresponse().read().decode()
    finally:
        connection.close()


@contextmanager
def beside(work: Callable[[], None]) -> Iterator[None]:
    """Run `work` beside the block and wait for its end."""
    thread = threading.Thread(target=work)
    thread.start()
    yield
    thread.join(30)
    assert not thread.is_alive()


def was_reset(end: socket.socket) -> bool:
    """Say whether what comes is a reset, rather than an end that looks like one of data."""
    try:
        return end.recv(1) == b"never"
    except ConnectionResetError:
        return True


def test_a_jobs_own_port_is_found_and_serves(agent: Agent) -> None:
    """No number has to be known; the job's end is the command's end, and its listener's."""
    job_id, number = web_job(agent, "--name", "web")
    with forwarding(agent, "web") as forward:
        assert forward.line.endswith(f"  local: port {number} of job {job_id} (web)\n")
        assert [get(forward.port, f"/{n}") for n in range(20)] == [
            f"hello from /{n}" for n in range(20)
        ]
        agent.cli("stop", "web", check=True)
        assert forward.process.wait(20) == 0
        assert forward.said().splitlines()[-1] == f"agentctl: job {job_id} is over"


def test_a_job_without_a_port_is_waited_for(agent: Agent) -> None:
    """A server that takes minutes to come up is no reason to type it again."""
    go = f"{agent.home}/go"
    shell = f"while ! test -e {go}; do sleep 0.05; done; exec {sys.executable} -c '{_WEB}' x"
    agent.cli("submit", "--name", "late", "-c", shell, check=True)
    process = agent.popen("forward", "late", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        waiting = process.stderr.readline().decode()
        assert waiting == "agentctl: job 1 listens on no port yet; waiting for one\n"
        with open(go, "w", encoding="ascii"):
            pass
        assert get(Forward(process, process.stdout.readline().decode(), "").port) == "hello from /"
    finally:
        process.kill()
        process.communicate()


def test_only_the_jobs_own_ports_are_listed(agent: Agent, server: Server) -> None:
    """Another job's port, and one of nobody's, are refused by name of this job."""
    _, number = web_job(agent)
    agent.cli("submit", "--name", "quiet", "--", *sleeper(), check=True)
    for foreign in (number, server.port):
        with forwarding(agent, f"quiet:{foreign}") as forward, forward.connect() as end:
            assert was_reset(end)
            wait_until(forward.said, what="a complaint")
            assert f"job 2 does not listen on port {foreign}" in forward.said()


def test_a_jobs_unix_socket_is_forwarded(agent: Agent) -> None:
    """As a TCP port of this machine; with --json all is told apart."""
    path = f"{agent.home}/echo.sock"
    agent.cli("submit", "--", sys.executable, "-c", _UNIX_ECHO, path, check=True)
    with forwarding(agent, "--json", "1") as forward:
        told = json.loads(forward.line)
        assert (told["host"], told["job_id"], told["port"], told["path"]) == (
            "local",
            1,
            None,
            path,
        )
        with socket.create_connection(("127.0.0.1", told["local_port"]), timeout=30) as end:
            end.sendall(b"over and out")
            end.shutdown(socket.SHUT_WR)
            with end.makefile("rb") as file:
                assert file.read() == b"over and out"
        forward.line = f"{told['url']}  "


def test_the_local_port_is_of_ones_choice(agent: Agent) -> None:
    """LOCAL:PORT, and LOCAL:JOB:PORT."""
    _, number = web_job(agent)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        local = free.getsockname()[1]
    for words in (f"{local}:{number}", f"{local}:1:{number}"):
        with forwarding(agent, words) as forward:
            assert (forward.port, get(local), forward.said()) == (local, "hello from /", "")


def test_a_taken_port_is_passed_over_and_the_other_is_kept(agent: Agent, server: Server) -> None:
    """One clear line; the next time it is the same one, although the first is free by then."""
    agent.start()
    with forwarding(agent, str(server.port)) as forward:
        first = forward.port
        assert first != server.port
        assert forward.said() == (
            f"agentctl: port {server.port} is taken on this machine; using {first} instead\n"
        )
    with forwarding(agent, str(server.port)) as again:
        assert (again.port, again.said()) == (first, "")


@pytest.mark.parametrize("choice", ["same", "chosen", "of a job", "remembered"])
def test_a_port_of_this_machine_is_not_forwarded_to_itself(agent: Agent, choice: str) -> None:
    """Each connection would make another, without end; and it would take the port from a job."""
    agent.cli("submit", "--", *sleeper(), check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = free.getsockname()[1]
    words = {"chosen": f"{number}:{number}", "of a job": f"1:{number}"}.get(choice, str(number))
    if choice == "remembered":
        Memory(state_directory(agent.env)).keep(f"local  port {number}", number)

    ran = agent.cli("forward", words)

    whose = "1:" if choice == "of a job" else ""
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == (
        f"agentctl: {number} is a port of this machine already; give another local one: "
        f"agentctl forward LOCAL:{whose}{number}\n"
    )


def test_half_closed_either_way_the_other_goes_on(agent: Agent, server: Server) -> None:
    """Megabytes are answered after the question's end; and asked after the answer's."""
    data = random.Random(9).randbytes(8_000_000)
    agent.start()
    with forwarding(agent, str(server.port)) as forward:
        with forward.connect() as end, server.accept() as peer:

            def ask() -> None:
                end.sendall(data)
                end.shutdown(socket.SHUT_WR)

            with beside(ask), peer.makefile("rb") as question:
                asked = question.read()
            assert hashlib.sha256(asked).digest() == hashlib.sha256(data).digest()

            def answer() -> None:
                peer.sendall(asked[::-1])
                peer.shutdown(socket.SHUT_WR)

            with beside(answer), end.makefile("rb") as answered:
                assert answered.read() == data[::-1]
        with forward.connect() as end, server.accept() as peer:
            peer.shutdown(socket.SHUT_WR)
            assert end.recv(1) == b""
            end.sendall(b"still here")
            end.shutdown(socket.SHUT_WR)
            with peer.makefile("rb") as rest:
                assert rest.read() == b"still here"


def test_a_client_that_goes_away_is_a_reset_at_the_target(agent: Agent, server: Server) -> None:
    """In the middle of what it is sent; the next connection is as good as the first."""
    agent.start()
    with forwarding(agent, str(server.port)) as forward:
        with forward.connect() as end, server.accept() as peer:
            end.sendall(b"x")
            assert peer.recv(1) == b"x"
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            end.close()
            assert was_reset(peer)
        with forward.connect() as end, server.accept() as peer:
            peer.sendall(b"y")
            assert end.recv(1) == b"y"


def test_a_target_that_breaks_off_is_a_reset_here(agent: Agent, server: Server) -> None:
    """What came so far must not be taken for all there is."""
    agent.start()
    with forwarding(agent, str(server.port)) as forward, forward.connect() as end:
        with server.accept() as peer:
            end.sendall(b"x")
            assert peer.recv(1) == b"x"
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        assert was_reset(end)


def test_a_port_where_nothing_listens_is_said_and_the_listener_stays(agent: Agent) -> None:
    """One line for each spell of trying; once the server is up, it is reached."""
    agent.start()
    with socket.socket() as late:
        late.bind(("127.0.0.1", 0))
        number = late.getsockname()[1]
        with forwarding(agent, str(number)) as forward:
            for _ in range(3):
                with forward.connect() as end:
                    assert was_reset(end)
            wait_until(lambda: "\n" in forward.said().partition("nothing")[2], what="a complaint")
            assert forward.said().count(f"nothing listens on port {number}") == 1
            late.listen()
            with forward.connect() as end:
                peer, _ = late.accept()
                with peer:
                    peer.sendall(b"z")
                    assert end.recv(1) == b"z"


def test_an_agent_killed_in_the_middle_cuts_and_heals(agent: Agent, server: Server) -> None:
    """What was open is reset; the listener stays, and the next connection finds the new server."""
    agent.start()
    with forwarding(agent, str(server.port)) as forward:
        with forward.connect() as end, server.accept() as peer:
            end.sendall(b"x")
            assert peer.recv(1) == b"x"
            agent.kill(agent.server_pid())
            assert was_reset(end)
        with forward.connect() as end, server.accept() as peer:
            peer.sendall(b"back")
            assert end.recv(4) == b"back"


def test_an_agent_that_is_stopped_ends_the_connections(agent: Agent, server: Server) -> None:
    """A drain does not wait for a browser."""
    agent.start()
    with (
        forwarding(agent, str(server.port)) as forward,
        forward.connect() as end,
        server.accept(),
    ):
        agent.cli("agent", "stop", check=True)
        assert was_reset(end)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_with_connections_open(
    agent: Agent, server: Server, number: signal.Signals
) -> None:
    """At once, with the status of that signal; nobody takes it for an end of data."""
    agent.start()
    with (
        forwarding(agent, str(server.port)) as forward,
        forward.connect() as end,
        server.accept() as peer,
    ):
        end.sendall(b"x")
        assert peer.recv(1) == b"x"
        forward.process.send_signal(number)
        assert forward.process.wait(10) == 128 + number
        assert was_reset(end)
        assert was_reset(peer)


@pytest.mark.parametrize("words", ["0", "web:70000", "70000", "", "8888:8889:", ":/a/b"])
def test_what_is_no_target_is_wrong_use(agent: Agent, words: str) -> None:
    """One line, before any agent is started; or no job of that id."""
    ran = agent.cli("forward", words)

    assert (ran.returncode in {1, 2}, ran.stdout, ran.stderr.count("\n")) == (True, "", 1)


def test_a_job_that_is_over_has_no_ports(agent: Agent) -> None:
    """Said at once."""
    agent.cli("run", "--", "true", check=True)

    ran = agent.cli("forward", "1:8080")

    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == "agentctl: job 1 is over: nothing of it listens any more\n"


def test_only_this_machine_can_connect(agent: Agent, server: Server) -> None:
    """The listener is bound to loopback, and to nothing else."""
    agent.start()
    with forwarding(agent, str(server.port)) as forward:
        with open("/proc/net/tcp", encoding="ascii") as file:
            lines = [line.split() for line in file.read().splitlines()[1:]]
        bound = [f[1] for f in lines if f[3] == "0A" and f[1].endswith(f":{forward.port:04X}")]
        assert bound == [f"0100007F:{forward.port:04X}"]
        assert is_alive(forward.process.pid)
