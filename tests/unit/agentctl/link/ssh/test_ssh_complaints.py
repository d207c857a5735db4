"""What ssh says, as errors that say what to do."""

from __future__ import annotations

import pytest

from agentctl.errors import HostUnreachableError, TryAgainError
from agentctl.link.ssh.complaints import last_line, why

# As OpenSSH 9.2 wrote them.
_CHANGED = """@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
IT IS POSSIBLE THAT SOMEONE IS DOING SOMETHING NASTY!
Host key verification failed.
"""


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (_CHANGED, "host key has changed"),
        ("No ED25519 host key is known.\nHost key verification failed.\n", "not known here"),
        ("me@gpu1: Permission denied (publickey).\n", "Permission denied (publickey)"),
        ("Received disconnect: Too many authentication failures\n", "Too many"),
        ("cfg: line 1: Bad configuration option: x\ncfg: terminating, 1 bad\n", "line 1"),
        ("Can't open user config file /x: No such file or directory\n", "configuration is missing"),
        ("ssh: Could not resolve hostname x: Name or service not known\n", "name is not known"),
    ],
)
def test_what_a_person_has_to_mend_is_final(said: str, words: str) -> None:
    """Keys, passwords, names and configuration do not heal by themselves."""
    error = why(said, "gpu1", "ssh gpu1")

    assert isinstance(error, HostUnreachableError)
    assert words in str(error)
    assert "gpu1" in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    "said",
    [
        "ssh: connect to host gpu1 port 22: Connection refused\n",
        "ssh: connect to host gpu1 port 22: Connection timed out\n",
        "ssh: connect to host gpu1 port 22: Network is unreachable\n",
        "ssh: Could not resolve hostname x: Temporary failure in name resolution\n",
        "kex_exchange_identification: Connection closed by remote host\n",
        "",
    ],
)
def test_what_may_pass_is_worth_another_try(said: str) -> None:
    """A network that is away comes back."""
    assert isinstance(why(said, "gpu1", "ssh gpu1"), TryAgainError)


def test_a_name_that_was_known_is_a_network_that_is_away() -> None:
    """Without a VPN its names are unknown; a link that stood before goes on trying."""
    said = "ssh: Could not resolve hostname x: Name or service not known\n"

    assert isinstance(why(said, "gpu1", "ssh gpu1", was_there=True), TryAgainError)


def test_a_jump_host_that_failed_is_named_as_such() -> None:
    """Its complaints go to /dev/null: all that ssh itself says is a strange port."""
    said = "Connection closed by UNKNOWN port 65535\n"

    assert "jump host" in str(why(said, "gpu1", "ssh gpu1"))


def test_a_server_cannot_write_to_the_terminal() -> None:
    """Escape sequences in what ssh passes on become question marks."""
    assert last_line("x\x1b]0;owned\x07\r\n\n@@@\n") == "x?]0;owned?"
    assert str(why("a\x1b[2Jb", "gpu1", "ssh gpu1")).isprintable()
