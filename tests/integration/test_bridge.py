"""`agentd bridge`: the agent's socket on stdin and stdout, and nothing else on them."""

from __future__ import annotations

import hashlib
import json
import os
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from agentd import __version__
from tests.helpers.agent import Agent
from tests.helpers.wait import name_of, wait_until

#: A connection preface and an empty SETTINGS frame (RFC 9113).
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"
MARK = "5eed" * 8


def bridge(agent: Agent, *words: str, **options: int | socket.socket) -> subprocess.Popen[bytes]:
    """Start a bridge of this agent; whoever asked reaps it."""
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    command = [sys.executable, "-P", "-m", "agentd", "bridge", *words]
    return subprocess.Popen(command, env=agent.env, cwd=agent.home, **{**pipes, **options})


def ended(process: subprocess.Popen[bytes]) -> tuple[int, bytes | None, str]:
    """Close its stdin and return exit status, stdout and stderr."""
    out, said = process.communicate(timeout=30)
    return process.returncode, out, said.decode()


@contextmanager
def listening(agent: Agent) -> Iterator[socket.socket]:
    """Listen where the agent would, in its stead."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{agent.runtime_dir}/agent.sock")
        listener.listen()
        listener.settimeout(30)
        yield listener


def test_it_starts_the_agent_and_says_one_line(agent: Agent) -> None:
    """Nothing of the agent's start is on stdout, and nobody keeps stdout open."""
    status, out, said = ended(bridge(agent, "--hello", "--mark", MARK))

    assert out is not None
    mark, body = out.removesuffix(b"\n").split(b" ", 1)
    assert (status, said, mark.decode(), out.count(b"\n")) == (0, "", MARK, 1)
    assert json.loads(body) == {
        "version": __version__,
        "api_level": 1,
        "socket": f"{agent.runtime_dir}/agent.sock",
        "state_dir": agent.state_dir,
        "hostname": socket.gethostname(),
    }
    assert agent.server_pid() > 0


def test_told_not_to_it_starts_none(agent: Agent) -> None:
    """One line, the exit code of a refusal, and no process."""
    assert ended(bridge(agent, "--hello", "--no-start")) == (
        1,
        b"",
        "agentd: no agent is running\n",
    )
    assert agent.processes() == {}


def test_the_agent_answers_through_it(agent: Agent) -> None:
    """After the line come the bytes of the agent's socket: the server's own SETTINGS first."""
    agent.start()
    with bridge(agent, "--no-start", "--mark", MARK) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline().startswith(MARK.encode() + b" {")
        process.stdin.write(PREFACE)
        process.stdin.flush()
        frame = process.stdout.read(9)
    # Length, type 4 (SETTINGS), flags, stream 0.
    assert (frame[3], frame[5:]) == (4, b"\0\0\0\0")


def test_bridges_at_once_have_one_agent(agent: Agent) -> None:
    """Four start where none runs: all are answered by the same."""
    processes = [bridge(agent, "--hello") for _ in range(4)]

    answers = [ended(process) for process in processes]

    assert [(status, said) for status, _, said in answers] == [(0, "")] * 4
    assert len({out for _, out, _ in answers}) == 1
    wardens = [pid for pid in agent.processes() if name_of(pid) == "agentd-warden"]
    assert wardens == [agent.warden_pid()]


def test_an_agent_that_ends_ends_it(agent: Agent) -> None:
    """Though its stdin stays open: nobody would ever read what comes there."""
    agent.start()
    process = bridge(agent)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        agent.kill(agent.warden_pid(), agent.server_pid())
        # To its end; the server speaks first, and may have done so.
        process.stdout.read()
        assert process.wait(timeout=10) == 0
    finally:
        process.kill()
        ended(process)


@pytest.mark.parametrize("like_sshd", [False, True], ids=["pipes", "one socket"])
def test_the_end_of_stdin_passes_and_the_answer_comes_back(
    agent: Agent, *, like_sshd: bool
) -> None:
    """What is answered after the end of the question arrives whole: megabytes either way."""
    question = random.Random(4).randbytes(5_000_000)
    answers: list[bytes] = []

    def answer(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as file:
            answers.append(file.read())
            connection.sendall(answers[0][::-1])

    with listening(agent) as listener, threads(answer, listener):
        got = asked_by_socket(agent, question) if like_sshd else asked_by_pipes(agent, question)

    line, newline, body = got.partition(b"\n")
    assert json.loads(line)["state_dir"] == agent.state_dir
    assert newline
    assert hashlib.sha256(answers[0]).digest() == hashlib.sha256(question).digest()
    assert hashlib.sha256(body).digest() == hashlib.sha256(question[::-1]).digest()


@contextmanager
def threads(work: Callable[..., None], *arguments: object) -> Iterator[None]:
    """Run `work` beside the block and wait for its end."""
    thread = threading.Thread(target=work, args=arguments)
    thread.start()
    yield
    thread.join(30)
    assert not thread.is_alive()


def asked_by_pipes(agent: Agent, question: bytes) -> bytes:
    """Return all that a bridge on two pipes writes when `question` is all that it reads."""
    process = bridge(agent)
    out, said = process.communicate(question, timeout=30)
    assert (process.returncode, said) == (0, b"")
    return out


def asked_by_socket(agent: Agent, question: bytes) -> bytes:
    """Return the same of a bridge whose stdin and stdout are one socket, as under sshd."""
    ours, theirs = socket.socketpair()
    with ours, ours.makefile("rb") as file:
        with theirs:
            process = bridge(agent, stdin=theirs, stdout=theirs)
        with threads(send, ours, question):
            out = file.read()
    assert ended(process) == (0, None, "")
    return out


def send(end: socket.socket, data: bytes) -> None:
    """Send all of it and its end."""
    end.sendall(data)
    end.shutdown(socket.SHUT_WR)


def test_the_agents_half_close_passes_and_stdin_goes_on(agent: Agent) -> None:
    """The end of one direction is not the end of the other."""
    with listening(agent) as listener, bridge(agent) as process:
        connection, _ = listener.accept()
        with connection:
            assert process.stdin is not None
            assert process.stdout is not None
            connection.shutdown(socket.SHUT_WR)
            assert process.stdout.read().count(b"\n") == 1
            process.stdin.write(b"still here")
            process.stdin.close()
            with connection.makefile("rb") as file:
                assert file.read() == b"still here"
        assert process.wait(10) == 0


def test_a_reader_that_is_gone_ends_it(agent: Agent) -> None:
    """As when the link breaks: both ends of the stdio are closed, and so is the connection."""
    ours, theirs = socket.socketpair()
    with listening(agent) as listener, theirs:
        process = bridge(agent, stdin=theirs, stdout=theirs)
        connection, _ = listener.accept()
        with connection:
            theirs.close()
            ours.close()
            assert connection.recv(1) == b""
            assert ended(process)[0] in {0, 1}


def open_to_others(directory: str) -> None:
    """Let the group look into it."""
    os.chmod(directory, 0o740)


def behind_a_symlink(directory: str) -> None:
    """Have it elsewhere."""
    os.rename(directory, directory + "2")
    os.symlink(directory + "2", directory)


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (open_to_others, "is open to others; run: chmod 700"),
        (behind_a_symlink, "a symlink is refused"),
    ],
)
def test_a_directory_that_is_not_private_is_refused(
    agent: Agent, spoil: Callable[[str], None], line: str
) -> None:
    """Whoever could have put the socket there would be given the user's jobs."""
    with listening(agent):
        spoil(agent.runtime_dir)

        status, out, said = ended(bridge(agent, "--hello"))

    assert (status, out, said.count("\n")) == (1, b"", 1)
    assert line in said
    assert agent.processes() == {}


def test_what_is_no_socket_is_refused(agent: Agent) -> None:
    """A symlink in its place too, wherever it leads."""
    with listening(agent):
        path = f"{agent.runtime_dir}/agent.sock"
        os.rename(path, path + "2")
        os.symlink(path + "2", path)

        assert ended(bridge(agent, "--hello")) == (
            1,
            b"",
            f"agentd: {path} is not a socket of yours; remove it\n",
        )


@pytest.mark.root
@pytest.mark.parametrize("what", ["", "/agent.sock"], ids=["directory", "socket"])
def test_what_belongs_to_another_user_is_refused(agent: Agent, what: str) -> None:
    """Directory and socket are looked at, each for itself."""
    with listening(agent):
        os.chown(agent.runtime_dir + what, 65534, -1)

        status, out, said = ended(bridge(agent, "--hello"))

    assert (status, out, said.count("\n")) == (1, b"", 1)
    assert agent.processes() == {}


#: Binds as who we are, listens as nobody: SO_PEERCRED tells who listened (unix(7)).
_IMPOSTOR = """
import os, socket, sys
with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(sys.argv[1])
    os.setresuid(65534, 65534, 65534)
    listener.listen()
    print("listening", flush=True)
    sys.stdin.read()
"""


@pytest.mark.root
def test_another_user_behind_our_own_socket_is_refused(agent: Agent) -> None:
    """The kernel says who listens, whatever the file looks like."""
    path = f"{agent.runtime_dir}/agent.sock"
    with subprocess.Popen(
        [sys.executable, "-c", _IMPOSTOR, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as impostor:
        assert impostor.stdout is not None
        impostor.stdout.readline()
        os.chmod(path, 0o600)

        assert ended(bridge(agent, "--hello")) == (
            1,
            b"",
            f"agentd: uid 65534 listens at {path}, not you\n",
        )


@pytest.mark.parametrize(
    "words", [["--hallo"], ["--mark"], ["--mark", "xyz"], ["--mark", "ab\n"], ["--mark", "a" * 200]]
)
def test_what_it_does_not_understand_is_wrong_use(agent: Agent, words: list[str]) -> None:
    """Exit code 2 and one line with the usage; nothing is started."""
    status, out, said = ended(bridge(agent, *words))

    assert (status, out, said.count("\n")) == (2, b"", 1)
    assert "usage: agentd bridge [--hello] [--no-start] [--mark HEX]" in said
    assert agent.processes() == {}


def test_an_agent_that_cannot_start_is_said_in_its_own_words(agent: Agent) -> None:
    """The last line of its complaint, the exit code of an unreachable host, nothing on stdout."""
    os.chmod(agent.state_dir, 0o740)

    status, out, said = ended(bridge(agent))

    assert (status, out, said.count("\n")) == (69, b"", 1)
    assert said.startswith(f"agentd: the agent did not start: {agent.state_dir} is open to others")


def test_an_agent_that_is_coming_up_is_waited_for(agent: Agent) -> None:
    """A server that has just died is back in a moment; the bridge does not refuse meanwhile."""
    agent.start()
    agent.kill(agent.server_pid())

    status, out, said = ended(bridge(agent, "--hello", "--no-start"))

    assert (status, (out or b"").count(b"\n"), said) == (0, 1, "")
    wait_until(agent.server_pid, what="the next server")


def test_it_loads_what_an_interpreter_has_at_hand() -> None:
    """Nothing that takes longer to load than the interpreter itself."""
    code = "import sys; before = set(sys.modules); import agentd.app, agentd.bridge; "
    code += "print('\\n'.join(set(sys.modules) - before))"
    ran = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True
    )

    slow = {"argparse", "dataclasses", "enum", "grpc", "json", "re", "socket", "subprocess"}
    assert set(ran.stdout.split()) & {*slow, "threading", "typing"} == set()
