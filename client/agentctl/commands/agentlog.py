"""`agent logs`: what `agentd log` prints, of this machine or of a host behind ssh.

The agent itself is not asked: its log is wanted most when it does not answer.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from typing import IO

from agentctl.commands.copying import STDOUT, write_all
from agentctl.errors import (
    AgentctlError,
    AgentNotRunningError,
    ApiLevelMismatchError,
    HostUnreachableError,
    TryAgainError,
)
from agentctl.link import is_local, on_host
from agentctl.link.local import LocalLink, agent_environment
from agentctl.render.color import is_terminal
from agentctl.words import printable

_CONNECT_WITHIN_S = 15.0
#: The most that start-up files may print before the mark.
_LONGEST_NOISE_BYTES = 4 << 20
_SSH_FAILED = 255
_CANNOT_EXECUTE = (126, 127)
_WRONG_USE = 2


def print_log(host: str, tail: int, *, follow: bool) -> None:
    """Print the last `tail` lines of each of the agent's logs; with `follow` go on without end.

    Raises:
        AgentNotRunningError: No agent has run there yet.
        AgentctlError: The host cannot be reached, or not any more.
        OSError: Stdout takes no more.

    """
    words = ["log", "-n", str(tail), *(["-f"] if follow else [])]
    if is_local(host):
        # Only for what it refuses: a relative directory is another one where that runs.
        LocalLink.of_environment(start_agent=False)
        command = [sys.executable, "-P", "-m", "agentd", *words]
        status, said, _ = _copy(command, "")
        if status:
            raise AgentNotRunningError(said or f"agentd ended with exit status {status}")
        return
    _print_far(host, words, follow=follow)


def _print_far(host: str, words: list[str], *, follow: bool) -> None:
    from agentctl.config import ssh_command
    from agentctl.link.book import HostBook
    from agentctl.link.ssh.master import Master
    from agentctl.link.ssh.remote import agentd_line

    known = HostBook.of_environment().find(host)
    if known is None:
        raise HostUnreachableError(f"the host {host!r} was removed")
    master = Master(known.destination, ssh_command(os.environ), name=known.name)
    mark = secrets.token_hex(16)
    command = master.command(agentd_line(known.agentd, *words, "--mark", mark))
    attended = is_terminal(sys.stdin) and is_terminal(sys.stderr)
    process = master.ensure(interactive=attended, patience_s=_CONNECT_WITHIN_S)
    status, said, begun = _copy(command, mark)
    if status == _SSH_FAILED and not begun:
        # The link had died before; nothing was printed through it.
        master.ensure(patience_s=_CONNECT_WITHIN_S, suspect=process)
        status, said, begun = _copy(command, mark)
    if status or not begun or follow:
        raise why_none(host, known.agentd, status, said, begun=begun)


def why_none(host: str, agentd: str, status: int, said: str, *, begun: bool) -> AgentctlError:
    """Return what a command that ended so, and said so last, means. Pure."""
    upgrade = f"agentctl host upgrade {host}"
    if status == _SSH_FAILED or status < 0 or (begun and not status):
        return TryAgainError(
            f"the link to {host} was lost; go on with: {on_host(host, 'agent logs')}"
        )
    if status in _CANNOT_EXECUTE:
        return HostUnreachableError(
            f"{host} has no agent at {agentd} any more ({said}); run: {upgrade}"
        )
    if status == _WRONG_USE:
        return ApiLevelMismatchError(
            f"the agent on {host} is of a version that cannot show its log; run: {upgrade}"
        )
    if status:
        return AgentNotRunningError(f"{host}: {said or f'agentd ended with exit status {status}'}")
    return HostUnreachableError(
        f"{host} did not run the agent's program; see that a start-up file of the login shell "
        "there does not end or replace it"
    )


def _copy(command: list[str], mark: str) -> tuple[int, str, bool]:
    """Run it and print what it says behind the mark.

    Returns its status, its last line on stderr, and whether the mark came.
    """
    # A file, not a pipe: whoever inherits it cannot keep us waiting for its end.
    complaint = os.memfd_create("agentd-log", os.MFD_CLOEXEC)
    try:
        with subprocess.Popen(
            command,
            # Its end, which also comes when this process is killed, ends a far follower.
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaint,
            env=agent_environment(),
            cwd="/",
            # Ctrl-C is for this process, which then ends that one.
            start_new_session=True,
        ) as child:
            try:
                begun = _print_lines(child.stdout, mark)
            except BaseException:
                child.kill()
                raise
            status = child.wait()
        said = os.pread(complaint, 65536, 0).decode("utf-8", "replace")
    except OSError as error:
        if error.filename is None:
            raise
        raise HostUnreachableError(f"cannot run {command[0]}: {error.strerror}") from None
    finally:
        os.close(complaint)
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return status, printable(lines[-1].removeprefix("agentd: ")) if lines else "", begun


def _print_lines(source: IO[bytes] | None, mark: str) -> bool:
    assert source is not None  # noqa: S101  # a pipe was asked for
    if mark and not _skip_noise(source, f"{mark}\n".encode()):
        return False
    shown = shown_line if is_terminal(sys.stdout) else _as_it_is
    for line in source:
        write_all(STDOUT, shown(line))
    return True


def _skip_noise(source: IO[bytes], mark: bytes) -> bool:
    got_bytes = 0
    for line in source:
        # Noise need not end its last line.
        if line.endswith(mark):
            return True
        got_bytes += len(line)
        if got_bytes > _LONGEST_NOISE_BYTES:
            return False
    return False


def _as_it_is(line: bytes) -> bytes:
    return line


def shown_line(line: bytes) -> bytes:
    """Return the line with all that a terminal would act on written out. Pure."""
    text = line.removesuffix(b"\n").decode("utf-8", "surrogateescape")
    return "\t".join(map(printable, text.split("\t"))).encode("utf-8", "backslashreplace") + b"\n"
