"""The command line as far as it needs no agent."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agentctl import __version__
from agentctl.cli import COMPLETE_VARIABLE, VERBS, cli, main
from agentctl.commands.base import Verb
from agentctl.config import default_host
from agentctl.errors import InvalidSpecError

HEAVY = ("grpc", "rich", "asyncio", "google", "agentapi", "subprocess")


@pytest.fixture(autouse=True)
def _private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lead to nobody's agent."""
    monkeypatch.setenv("AGENTD_STATE_DIR", str(tmp_path / "s"))
    monkeypatch.setenv("AGENTD_RUNTIME_DIR", "/tmp/agentctl-unit-test-nothing-here")
    monkeypatch.setenv("AGENTCTL_CONFIG", str(tmp_path / "config.toml"))
    monkeypatch.delenv("AGENTCTL_HOST", raising=False)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_teaches_by_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Its help has two to four examples, or subcommands."""
    assert main([verb, "--help"]) == 0
    shown = capsys.readouterr().out
    command = cli.get_command(None, verb)  # type: ignore[arg-type]  # it does not look at it
    if isinstance(command, Verb):
        assert 2 <= len(command.examples) <= 4
        assert all(line.startswith(("agentctl", "id=", "eval")) for line in command.examples)
        assert "Examples:" in shown
    assert "--json" in shown
    assert "--host" in shown


def test_the_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    """Without loading one."""
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {verb} " in shown for verb in VERBS)


@pytest.mark.parametrize(
    "arguments", [["--version"], ["ls", "--version"], ["-H", "x", "--version"]]
)
def test_the_version_is_told_before_and_after_the_verb(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """One line."""
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"agentctl {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["lss"], 2, "lss"),
        (["ls", "--state", "bogus"], 2, "--state"),
        (["ls", "--bogus"], 2, "--bogus"),
        (["ls", "--label", "x"], 2, "--label"),
        (["submit"], 2, "no command"),
        (["submit", "--"], 2, "no command"),
        (["submit", "-c", "x", "y"], 2, "-c"),
        (["submit", "--mem", "16Q", "--", "true"], 2, "--mem"),
        (["submit", "--mem", "0", "--", "true"], 2, "mem"),
        (["submit", "--timeout", "nan", "--", "true"], 2, "--timeout"),
        (["submit", "--timeout", "-1", "--", "true"], 2, "--timeout"),
        (["submit", "--grace", "soon", "--", "true"], 2, "--grace"),
        (["submit", "--env", "K", "--", "true"], 2, "--env"),
        (["submit", "--env", "=V", "--", "true"], 2, "--env"),
        (["submit", "--name", "7", "--", "true"], 2, "name"),
        (["submit", "--append", "--", "true"], 2, "append"),
        (["submit", "--", "echo", "x" * 200_000], 2, "200,000"),
        (["submit", "--", "a\0b"], 2, "NUL"),
        (["submit", "--", ""], 2, "no command"),
        (["run", "--json", "--", "true"], 2, "--json"),
        (["--json", "logs", "7"], 2, "--json"),
        (["signal", "FOO", "7"], 2, "FOO"),
        (["signal", "0", "7"], 2, "SIG"),
        (["signal", "USR1"], 2, "JOB"),
        (["stop"], 2, "JOB"),
        (["logs", "--tail", "-1", "7"], 2, "--tail"),
        (["logs", "--since", "yesterday", "7"], 2, "--since"),
        (["wait", "--timeout", "inf", "7"], 2, "--timeout"),
        (["completion", "csh"], 2, "csh"),
        (["lss"], 2, "did you mean 'ls'? see: agentctl --help"),
        (["ls", "--nam", "x"], 2, "'--name'?); see: agentctl ls --help"),
        (["ls", "--bogus"], 2, "? see: agentctl ls --help"),
        (["logs", "-n"], 2, "see: agentctl logs --help"),
        (["logs", "-n", "x", "7"], 2, "is not a whole number"),
        (["ls", "--name", "17"], 2, "agentctl show 17"),
        (["\udcff"], 2, r"'\xff'"),
        (["logs", "\udcff"], 1, r"no job has the name '\xff'"),
        (["ls", "-n", "\udcff"], 1, r"no job has the name '\xff'"),
        (["-H", "gpu1", "ls"], 69, "gpu1"),
        (["ls", "-H", "gpu1"], 69, "gpu1"),
        (["agent", "start", "-H", "gpu1"], 69, "gpu1"),
        (
            ["-H", "a,b", "show", "1"],
            2,
            "-H a,b: only ls, events and wait take several hosts; name one",
        ),
        (["agent", "status"], 1, "agent start"),
        (["agent", "logs"], 1, "no log"),
    ],
)
def test_what_cannot_be_is_one_line_and_a_code(
    arguments: list[str], code: int, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """On stderr, and nothing on stdout."""
    assert main(arguments) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("agentctl: ")
    assert shown.err.count("\n") == 1
    assert word in shown.err


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_says_which_verbs_take_several_hosts(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the word for what -H takes."""
    assert main([verb, "--help"]) == 0
    several = "HOST[,HOST...]" in capsys.readouterr().out
    assert several == (verb in {"ls", "events", "wait"})


def test_no_help_of_a_host_verb_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    """On a terminal of 80 columns."""
    assert main(["host", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "..." not in shown.partition("Commands:")[2]
    assert "Bring a host to this version." in shown


def test_without_a_verb_the_help_comes_and_a_usage_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On stderr: nothing was asked for."""
    assert main([]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "submit" in shown.err


def test_the_environment_and_the_configuration_name_a_host(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An option beats the environment, which beats the file; a refusal says which it was."""
    (tmp_path / "config.toml").write_text('[client]\nhost = "from-file"\n', encoding="utf-8")
    file = str(tmp_path / "config.toml")
    for arguments, host, source in (
        (["ls"], "from-file", file),
        (["ls", "-H", "from-option"], "from-option", "-H"),
    ):
        assert main(arguments) == 69
        said = capsys.readouterr().err
        assert f"'{host}'" in said
        assert f"named by {source}" in said
    monkeypatch.setenv("AGENTCTL_HOST", "from-environment")
    assert main(["ls"]) == 69
    said = capsys.readouterr().err
    assert "'from-environment'" in said
    assert "named by $AGENTCTL_HOST" in said


@pytest.mark.parametrize(
    ("content", "host"),
    [("", None), ("[jobs]\n", None), ('[client]\nhost = "a"\n', "a"), ("[client]\n", None)],
)
def test_the_default_host_is_the_clients_own_setting(
    tmp_path: Path, content: str, host: str | None
) -> None:
    """Other tables are the agent's."""
    path = tmp_path / "config.toml"
    path.write_text(content, encoding="utf-8")
    assert default_host(str(path)) == host
    assert default_host(str(tmp_path / "none")) is None


@pytest.mark.parametrize("content", ["[client\n", "[client]\nhost = 7\n", "[client]\nhost = ''\n"])
def test_a_configuration_that_cannot_be_read_is_no_guess(tmp_path: Path, content: str) -> None:
    """A job must not land on another host than the one meant."""
    path = tmp_path / "config.toml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InvalidSpecError):
        default_host(str(path))


def loaded_by(arguments: list[str], **environment: str) -> set[str]:
    """Return the modules a command loads in a process of its own."""
    code = (
        "import sys, agentctl.cli as c\n"
        f"c.main({arguments!r})\n"
        "print('\\n@' + ' '.join(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return set(done.stdout.rsplit("@", 1)[1].split())


@pytest.mark.parametrize(
    "arguments", [["--help"], ["submit", "--help"], ["ls", "--help"], ["completion", "zsh"]]
)
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    """It answers at once."""
    assert not loaded_by(arguments) & set(HEAVY)


def test_completion_loads_nothing_heavy() -> None:
    """It is paid at every press of TAB."""
    environment = {COMPLETE_VARIABLE: "zsh_complete", "COMP_WORDS": "agentctl s", "COMP_CWORD": "1"}
    assert not loaded_by([], **environment) & set(HEAVY)


def test_a_listing_loads_no_terminal_library() -> None:
    """The table is our own."""
    assert "rich" not in loaded_by(["agent", "status"])


def test_importing_the_package_loads_nothing() -> None:
    """`from agentctl import Client` loads what it needs, `import agentctl` does not."""
    code = "import agentctl, sys; print(' '.join(sys.modules)); agentctl.Client; dir(agentctl)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert not set(done.stdout.split()) & {*HEAVY, "click", "agentctl.errors"}


def test_completion_knows_verbs_options_and_states() -> None:
    """From click, through the variable its scripts set."""
    for words, count, expected in (
        ("agentctl s", "1", "submit"),
        ("agentctl ls --st", "2", "--state"),
        ("agentctl ls --state ru", "3", "running"),
        ("agentctl submit -- ./tr", "3", "file"),
        ("agentctl run python tr", "3", "file"),
        ("agentctl submit --cwd tr", "3", "dir"),
        ("agentctl signal us", "2", "USR1"),
        ("agentctl signal sigus", "2", "SIGUSR1"),
    ):
        done = subprocess.run(
            [sys.executable, "-P", "-m", "agentctl"],
            env={
                **os.environ,
                COMPLETE_VARIABLE: "zsh_complete",
                "COMP_WORDS": words,
                "COMP_CWORD": count,
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert expected in done.stdout.split()
