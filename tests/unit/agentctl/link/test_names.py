"""What a host may be called, and where ssh may be sent."""

from __future__ import annotations

import pytest

from agentctl.errors import InvalidSpecError
from agentctl.link.names import check_destination, check_name


@pytest.mark.parametrize("name", ["gpu1", "a", "login-2.cluster_x", "9", "a" * 63])
def test_plain_names_are_names(name: str) -> None:
    """Letters, digits, dot, underscore and hyphen."""
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "local",
        "-x",
        ".x",
        "a b",
        "a/b",
        "a\n",
        "ü",
        "a" * 64,
        "me@gpu1",
        "a\x1b[31m",
        "a\udcff",
    ],
)
def test_others_are_not(name: str) -> None:
    """Nothing that a shell, a path or a terminal would act on; "local" is taken."""
    with pytest.raises(InvalidSpecError):
        check_name(name)


@pytest.mark.parametrize("destination", ["gpu1", "me@gpu1", "ssh://me@gpu1:2222", "fe80::1%eth0"])
def test_what_ssh_takes_is_a_destination(destination: str) -> None:
    """One word."""
    assert check_destination(destination) == destination


@pytest.mark.parametrize(
    "destination",
    [
        "",
        "-oProxyCommand=touch x",
        "-p22",
        "a b",
        "a\tb",
        "a\n",
        "a\x00",
        "a\x1b",
        "a\udcff",
        "x" * 600,
    ],
)
def test_options_and_blanks_are_no_destination(destination: str) -> None:
    """What ssh could take for an option, or for two words, is refused."""
    with pytest.raises(InvalidSpecError):
        check_destination(destination)
