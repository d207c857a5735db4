"""The client's part of config.toml: which ssh, and strictness about what is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentctl.config import default_host, ssh_command
from agentctl.errors import InvalidSpecError


def command_of(tmp_path: Path, content: str, said: str = "") -> tuple[str, ...]:
    """Return the ssh command that a file of this content and $AGENTCTL_SSH give."""
    path = tmp_path / "config.toml"
    path.write_text(content, encoding="utf-8")
    return ssh_command({"AGENTCTL_CONFIG": str(path), "AGENTCTL_SSH": said})


def test_ssh_is_ssh_unless_said_otherwise(tmp_path: Path) -> None:
    """No file, no table, or a file of other tables."""
    assert ssh_command({"AGENTCTL_CONFIG": str(tmp_path / "none")}) == ("ssh",)
    assert command_of(tmp_path, "") == ("ssh",)
    assert command_of(tmp_path, "[ssh]\n") == ("ssh",)


def test_the_environment_beats_the_file(tmp_path: Path) -> None:
    """Each split into words: the one as a shell would, the other already is."""
    content = '[ssh]\ncommand = ["ssh", "-F", "my config"]\n'
    assert command_of(tmp_path, content) == ("ssh", "-F", "my config")
    assert command_of(tmp_path, content, "tsh -F 'a b'") == ("tsh", "-F", "a b")


@pytest.mark.parametrize(
    ("content", "field"),
    [
        ('[ssh]\ncommand = "ssh -F x"\n', r"ssh\.command must be a list"),
        ("[ssh]\ncommand = []\n", r"ssh\.command must be a list"),
        ('[ssh]\ncommand = ["ssh", 7]\n', r"ssh\.command\[1\] must be text, not 7"),
        ('[ssh]\ncommand = [""]\n', r"ssh\.command\[0\]"),
        ('[ssh]\ncommand = ["-F", "x"]\n', r"ssh\.command\[0\]"),
        ('[ssh]\ncommand = ["ssh", "a\\u0000b"]\n', r"ssh\.command\[1\]"),
        ("ssh = 7\n", r"\[ssh\] must be a table"),
        ("[ssh\n", "mend it"),
    ],
)
def test_a_wrong_command_is_named(tmp_path: Path, content: str, field: str) -> None:
    """No guess: another ssh would reach another host, with another key."""
    with pytest.raises(InvalidSpecError, match=field):
        command_of(tmp_path, content)


@pytest.mark.parametrize("said", ["ssh 'x", "''", "-oProxyCommand=x"])
def test_a_wrong_variable_is_named(tmp_path: Path, said: str) -> None:
    """The same for the environment."""
    with pytest.raises(InvalidSpecError, match="AGENTCTL_SSH"):
        command_of(tmp_path, "", said)


def test_a_client_that_is_no_table_is_refused(tmp_path: Path) -> None:
    """The field is named."""
    path = tmp_path / "config.toml"
    path.write_text('client = "gpu1"\n', encoding="utf-8")
    with pytest.raises(InvalidSpecError, match=r"\[client\] must be a table"):
        default_host(str(path))
