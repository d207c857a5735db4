"""What a job gets that was submitted from another machine: as after a login here."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from dataclasses import replace

from agentd.core.job import FileOutput
from agentd.server.runtime.model import JobDraft

#: Of the session, the service or the shell that the agent was started from: not a job's concern.
_SESSION_PREFIXES = ("AGENTCTL_JOB_", "LISTEN_", "SSH_", "WATCHDOG_", "XDG_SESSION_")
_SESSION = frozenset(
    {"INVOCATION_ID", "JOURNAL_STREAM", "MAINPID", "MANAGERPID", "NOTIFY_SOCKET", "OLDPWD", "PWD"}
    | {"SHLVL", "SYSTEMD_EXEC_PID", "TERM", "_"}
)
_PATH = "/usr/local/bin:/usr/bin:/bin"


def login_environment(environ: Mapping[str, str], user: pwd.struct_passwd) -> dict[str, str]:
    """Return what a login has: the agent's own environment without traces of its start. Pure."""
    known = {"HOME": user.pw_dir, "LOGNAME": user.pw_name, "PATH": _PATH}
    known |= {"SHELL": user.pw_shell or "/bin/sh", "USER": user.pw_name}
    kept = {
        name: value
        for name, value in environ.items()
        if name not in _SESSION and not name.startswith(_SESSION_PREFIXES)
    }
    return known | kept


def as_after_login(draft: JobDraft) -> JobDraft:
    """Return the draft with all that its caller could not know of this machine."""
    environment = login_environment(os.environ, pwd.getpwuid(os.geteuid()))
    home = environment["HOME"]

    def at_home(path: str) -> str:
        # A "~" that the caller's shell has left alone is meant for us.
        below = "" if path == "~" else path.removeprefix("~/")
        return os.path.join(home, below) if below else home

    output = draft.output
    if isinstance(output, FileOutput):
        stderr_path = output.stderr_path
        output = replace(
            output,
            stdout_path=at_home(output.stdout_path),
            stderr_path=None if stderr_path is None else at_home(stderr_path),
        )
    return replace(
        draft,
        cwd=at_home(draft.cwd),
        environment={**environment, **draft.environment},
        output=output,
        stdin_path=None if draft.stdin_path is None else at_home(draft.stdin_path),
        as_login=False,
    )
