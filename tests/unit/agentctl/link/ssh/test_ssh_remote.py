"""The command line for the login shell at the far end, and its answer."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from agentctl.errors import (
    AgentNotRunningError,
    HostUnreachableError,
    InvalidSpecError,
    TryAgainError,
)
from agentctl.link.ssh.remote import (
    FarAgent,
    Hello,
    another_agent,
    bridge_line,
    hello_in,
    why_no_hello,
)

_MARK = "0123456789abcdef"
_HELLO = {
    "version": "1.2.3",
    "api_level": 1,
    "socket": "/run/a.sock",
    "state_dir": "/s",
    "hostname": "gpu1",
}


@pytest.mark.parametrize("shell", ["sh", "bash", "dash", "tcsh", "fish"])
@pytest.mark.parametrize("name", ["plain", "with blank", "a(b)&c;d*?[x]~{y,z}#|<>", "größe"])
def test_the_line_means_the_same_in_every_shell(tmp_path: Path, shell: str, name: str) -> None:
    """The launcher gets its words, whatever its path and whoever's login shell reads them."""
    directory = tmp_path / name
    directory.mkdir()
    launcher = directory / "agentd"
    launcher.write_text('#!/bin/sh\nfor word; do echo "<$word>"; done\n')
    launcher.chmod(0o755)
    line = bridge_line(str(launcher), _MARK, hello_only=True, may_start=False)

    ran = subprocess.run(
        [shell, "-c", line],
        capture_output=True,
        text=True,
        check=True,
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
    )

    assert ran.stdout.split() == ["<bridge>", "<--hello>", "<--no-start>", "<--mark>", f"<{_MARK}>"]


@pytest.mark.parametrize(
    "path", ["agentd", "", "/a'b", '/a"b', "/$HOME", "/a`id`", "/a\\b", "/a!b", "/a\nb", "/a\0b"]
)
def test_a_path_that_a_shell_would_change_is_refused(path: str) -> None:
    """Quotes, dollars, backslashes, bangs and line ends stand in no command line."""
    with pytest.raises(InvalidSpecError, match="path on a server"):
        bridge_line(path, _MARK, hello_only=True, may_start=True)


@pytest.mark.parametrize(
    "noise", [b"", b"Welcome!\n", b"no line end ", b"\xff\xfe\x00{}\n", b"0123 {}\n" * 1000]
)
def test_the_greeting_is_found_behind_noise(noise: bytes) -> None:
    """Only what stands behind the mark counts."""
    output = noise + f"{_MARK} {json.dumps(_HELLO)}\n".encode() + b"more"

    assert hello_in(output, _MARK) == Hello("1.2.3", 1, "/run/a.sock", "/s", "gpu1")


@pytest.mark.parametrize(
    "output",
    [
        b"",
        b"{}\n",
        json.dumps(_HELLO).encode() + b"\n",
        f"{_MARK} {json.dumps(_HELLO)}".encode(),
        f"{_MARK} []\n".encode(),
        f"{_MARK} nonsense\n".encode(),
        f"{_MARK} {'[' * 60000}\n".encode(),
        f'{_MARK} {{"version": 1}}\n'.encode(),
        f"{_MARK} {json.dumps(_HELLO).replace('1,', '1e999,')}\n".encode(),
        f"{_MARK} {json.dumps(_HELLO).replace('1,', 'NaN,')}\n".encode(),
        f"{_MARK} {json.dumps({**_HELLO, 'socket': None})}\n".encode(),
        f"{_MARK} {json.dumps({**_HELLO, 'hostname': ['x']})}\n".encode(),
    ],
)
def test_anything_else_is_no_greeting(output: bytes) -> None:
    """Without its mark, its end or its parts it is noise."""
    assert hello_in(output, _MARK) is None


def test_why_nobody_greeted_says_what_to_do() -> None:
    """Each way to fail has its own line and its own next step."""
    gone = why_no_hello("gpu1", "/x/agentd", 127, b"", b"sh: 1: exec: /x/agentd: not found\n")
    later = why_no_hello("gpu1", "/x/agentd", 75, b"", b"agentd: it does not answer yet\n")
    none = why_no_hello("gpu1", "/x/agentd", 1, b"", b"agentd: no agent is running\n")
    unsafe = why_no_hello("gpu1", "/x/agentd", 1, b"", b"agentd: /x is open to others\n")
    ended = why_no_hello("gpu1", "/x/agentd", 0, b"hi\x1b[2J\n", b"")

    assert isinstance(gone, HostUnreachableError)
    assert "host upgrade gpu1" in str(gone)
    assert isinstance(later, TryAgainError)
    assert isinstance(none, AgentNotRunningError)
    assert isinstance(unsafe, HostUnreachableError)
    assert "open to others" in str(unsafe)
    assert "start-up file" in str(ended)
    assert str(ended).isprintable()


@pytest.mark.parametrize("status", [255, 137, 143])
def test_a_session_that_was_cut_may_work_the_next_time(status: int) -> None:
    """Refused by a peer that has enough of them, lost with the master, or killed there."""
    said = b"mux_client_request_session: session request failed: Session open refused by peer\n"
    cut = why_no_hello("gpu1", "/x/agentd", status, b"", said)

    assert isinstance(cut, TryAgainError)
    assert "Session open refused by peer" in str(cut)
    assert "status" in str(why_no_hello("gpu1", "/x/agentd", status, b"", b""))


@pytest.mark.parametrize("status", [126, 127])
def test_a_launcher_that_was_there_may_come_back(status: int) -> None:
    """After a restart a home may be mounted late; what to do if not is said too."""
    away = why_no_hello("gpu1", "/x/agentd", status, b"", b"not found\n", was_there=True)

    assert isinstance(away, TryAgainError)
    assert "host upgrade gpu1" in str(away)


def test_another_agent_is_named_with_the_first() -> None:
    """By what differs, and without what a terminal would act on."""
    first = FarAgent("node1", "/s")
    machine = another_agent("gpu1", FarAgent("node2\x1b[2J", "/s"), first)
    directory = another_agent("gpu1", FarAgent("node1", "/t"), first)

    assert str(machine).startswith("gpu1 is another machine now: node2?[2J, it was node1; ")
    assert str(directory).startswith("gpu1 is another agent now: /t, it was /s; ")
