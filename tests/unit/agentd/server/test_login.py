"""What a job from another machine gets: as after a login here."""

from __future__ import annotations

import pwd

import pytest

from agentd.core.job import FileOutput
from agentd.server.runtime.login import as_after_login, login_environment
from agentd.server.runtime.model import JobDraft

USER = pwd.struct_passwd(("ada", "x", 1000, 1000, "", "/home/ada", "/bin/zsh"))


def _draft(**changes: object) -> JobDraft:
    fields: dict[str, object] = {"idempotency_key": "k", "argv": ("true",), "cwd": ""}
    fields |= {"environment": {}, "as_login": True}
    return JobDraft(**(fields | changes))  # type: ignore[arg-type]  # fields by name


def test_the_agents_own_environment_counts_without_traces_of_its_start() -> None:
    """A session's sockets are gone with the session; a service's are not the job's."""
    environ = {"PATH": "/opt/bin", "LANG": "C", "AGENTD_STATE_DIR": "/s"}
    started = {"SSH_AUTH_SOCK": "/x", "NOTIFY_SOCKET": "/y", "TERM": "dumb", "PWD": "/"}

    environment = login_environment(environ | started, USER)

    login = {"HOME": "/home/ada", "USER": "ada", "LOGNAME": "ada", "SHELL": "/bin/zsh"}
    assert environment == environ | login


def test_what_was_asked_for_comes_on_top() -> None:
    """Also a variable that would not be passed on."""
    draft = as_after_login(_draft(environment={"TERM": "xterm", "PATH": "/mine"}))

    assert draft.environment["TERM"] == "xterm"
    assert draft.environment["PATH"] == "/mine"


@pytest.mark.parametrize(
    ("asked", "got"),
    [("", "/h"), ("~", "/h"), ("~/p", "/h/p"), ("p/q", "/h/p/q"), ("/data", "/data")],
)
def test_paths_begin_at_home(monkeypatch: pytest.MonkeyPatch, asked: str, got: str) -> None:
    """As after a login; an absolute one stays."""
    monkeypatch.setenv("HOME", "/h")

    assert as_after_login(_draft(cwd=asked)).cwd == got


def test_the_files_of_a_job_begin_at_home_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those it writes and the one it reads."""
    monkeypatch.setenv("HOME", "/h")
    output = FileOutput("out", "/tmp/err", append=False)

    draft = as_after_login(_draft(output=output, stdin_path="in"))

    assert draft.output == FileOutput("/h/out", "/tmp/err", append=False)
    assert draft.stdin_path == "/h/in"
    assert not draft.as_login
