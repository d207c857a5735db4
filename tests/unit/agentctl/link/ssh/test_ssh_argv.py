"""Command lines of ssh, and what cannot become part of them."""

from __future__ import annotations

import pytest

from agentctl.errors import InvalidSpecError
from agentctl.link.names import check_destination
from agentctl.link.ssh import argv
from agentctl.link.ssh.link import SshLink
from agentctl.link.ssh.master import Master
from tests.helpers.hostlike import host_at

_USERS = ("ssh", "-F", "/x/config", "-J", "front")


@pytest.mark.parametrize(
    "destination",
    [
        "-oProxyCommand=touch /tmp/x",
        "-oProxyCommand=true",
        "user@-oProxyCommand=true",
        "ssh://-oProxyCommand=true",
        "ssh://user@-oProxyCommand=true",
        "-",
        "",
        "host name",
        "host\nname",
        "host\tname",
        "host\x1b[31m",
        "host\x00",
        "$(touch x)",
        "host;id",
        "host`id`",
        "a|b",
        "a&b",
        "'host'",
        '"host"',
        "host\\x",
        "\udcff",
        "h" * 2000,
    ],
)
def test_a_hostile_destination_is_refused(destination: str) -> None:
    """What could be an option, or mean something to a ProxyCommand's shell, reaches no ssh."""
    with pytest.raises(InvalidSpecError, match="destination"):
        Master(destination)
    with pytest.raises(InvalidSpecError, match="destination"):
        SshLink(host_at(destination, "/x/agentd"), ("ssh",))


@pytest.mark.parametrize(
    "destination",
    ["gpu1", "me@gpu1.example.org", "ssh://me@gpu1:2222", "[::1]", "me@fe80::1%eth0", "a_b-c.d"],
)
def test_what_ssh_takes_is_a_destination(destination: str) -> None:
    """Names, addresses, users and URIs pass."""
    assert check_destination(destination) == destination


def test_a_refused_destination_is_shown_without_control_characters() -> None:
    """The complaint itself is safe for a terminal."""
    with pytest.raises(InvalidSpecError) as caught:
        check_destination("x\x1b]0;owned\x07\n")
    assert str(caught.value).isprintable()


def test_the_destination_stands_behind_the_end_of_options() -> None:
    """Every command line ends with `-- DESTINATION`, and what is run there, if anything."""
    master = argv.master_argv(_USERS, "gpu1", "/r/c", interactive=False, connect_timeout_s=9)
    session = argv.session_argv(_USERS, "gpu1", "/r/c", "true")
    check = argv.control_argv(_USERS, "gpu1", "/r/c", "check")
    forward = argv.control_argv(_USERS, "gpu1", "/r/c", "forward", ("/r/l", "/far"))

    assert master[-2:] == check[-2:] == forward[-2:] == ["--", "gpu1"]
    assert session[-3:] == ["--", "gpu1", "true"]


def test_a_client_of_the_master_cannot_log_in() -> None:
    """It reads no configuration and has a ProxyCommand that fails: without a master, nothing."""
    for command in (
        argv.session_argv(_USERS, "gpu1", "/r/c", "true"),
        argv.control_argv(_USERS, "gpu1", "/r/c", "exit"),
    ):
        assert command[:3] == ["ssh", "-F", "/dev/null"]
        assert "ProxyCommand=false" in command
        assert not {"/x/config", "-J", "front"} & set(command)


def test_our_options_of_the_master_come_before_the_users() -> None:
    """Of options the first value counts for ssh, of control paths the last."""
    users = ("ssh", "-o", "ServerAliveInterval=0", "-S", "none")
    command = argv.master_argv(users, "gpu1", "/r/c", interactive=False, connect_timeout_s=9)

    assert command.index("ServerAliveInterval=3") < command.index("ServerAliveInterval=0")
    assert len(command) - command[::-1].index("-S") - 1 == command.index("/r/c") - 1


@pytest.mark.parametrize("interactive", [False, True])
def test_only_a_person_is_asked(interactive: bool) -> None:  # noqa: FBT001  # a parameter
    """BatchMode is left to the user exactly where a person is at the terminal."""
    command = argv.master_argv(
        ("ssh",), "gpu1", "/r/c", interactive=interactive, connect_timeout_s=9
    )

    assert ("BatchMode=yes" in command) is not interactive


@pytest.mark.parametrize(
    ("command", "program", "options"),
    [
        (("ssh",), ["ssh"], []),
        (("ssh", "-F", "x"), ["ssh"], ["-F", "x"]),
        (("/opt/bin/ssh", "-4"), ["/opt/bin/ssh"], ["-4"]),
        (("env", "A=1", "ssh", "-4"), ["env", "A=1", "ssh"], ["-4"]),
        (("sshpass", "-e", "ssh", "-4"), ["sshpass", "-e", "ssh"], ["-4"]),
        (("my-wrapper", "-4"), ["my-wrapper"], ["-4"]),
    ],
)
def test_the_users_command_is_a_program_and_options(
    command: tuple[str, ...], program: list[str], options: list[str]
) -> None:
    """What wraps ssh stays before it."""
    assert argv.split_command(command) == (program, options)
