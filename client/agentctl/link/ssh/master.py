"""The private OpenSSH master of one destination, shared by all processes of this user.

Theory of operation. A master is one `ssh` in the background that has logged in and answers at
a control socket in our runtime directory. Everything else goes through that socket by clients
which cannot log in themselves: where no master answers, they fail. So there is one login a
host, made under a lock, and a file names the process it made: a master that is frozen still
has its socket, answers no question, and is found and killed by its pid and start alone.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from agentctl.errors import HostUnreachableError, TryAgainError
from agentctl.link.local import agent_environment
from agentctl.link.names import check_destination
from agentctl.link.private import is_private, runtime_dir, runtime_path
from agentctl.link.ssh import argv, complaints, lock, state
from agentctl.link.ssh.process import Process, everyone, has_argument, kill, look, seen

if TYPE_CHECKING:
    from subprocess import CompletedProcess, Popen

#: How long a person may take to type a password or a code; sshd's own LoginGraceTime is as long.
INTERACTIVE_S = 120.0
#: The most a healthy master needs for an answer that asks nobody else.
_ANSWER_WITHIN_S = 5.0
#: For a TCP connection and the first line of the server; a jump host counts to it.
CONNECT_WITHIN_S = 10
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_SSH_FAILED = 255
#: Ends of names in the runtime directory that begin with the key of a master and go with it.
FORWARD = ".sock"
ROUTE = ".route"


class Master:
    """One master for a destination and an ssh command. Safe to use from several threads."""

    def __init__(
        self,
        destination: str,
        ssh_command: Sequence[str] = ("ssh",),
        *,
        name: str = "",
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """Name the master; nothing is started or touched.

        Args:
            destination: The one word that ssh takes for where to go.
            ssh_command: The ssh to use and the options the user always wants.
            name: What people call the host in messages; without it the destination.
            environ: Names the runtime directory; without it this process' environment.

        Raises:
            InvalidSpecError: ssh could take the destination for anything else.

        """
        self.destination = check_destination(destination)
        self.ssh_command = tuple(ssh_command)
        self.name = name or destination
        #: The host has answered through this object: what fails now may well be the network.
        self.was_there = False
        self._environ = os.environ if environ is None else environ
        #: The runtime directory; it may not exist before the first `ensure`.
        self.directory = runtime_path(self._environ)
        #: How the names of all its files begin.
        self.key = state.key(destination, *self.ssh_command)
        #: Path of the control socket.
        self.control = f"{self.directory}/{self.key}.ctl"
        self._state_file = f"{self.directory}/{self.key}.master"

    @property
    def look(self) -> str:
        """A command with which a person can see what ssh has to say."""
        return shlex.join([*self.ssh_command, self.destination])

    def ensure(
        self,
        *,
        interactive: bool = False,
        patience_s: float = 15.0,
        suspect: Process | None = None,
    ) -> Process:
        """Return the master, started if none runs.

        Args:
            interactive: A person is at the terminal and may be asked for what ssh needs.
            patience_s: Seconds for it all; a person gets `INTERACTIVE_S`.
            suspect: A master known to be of no use: ended first, if it is still the present one.

        Raises:
            HostUnreachableError: A person has to mend something first.
            TryAgainError: It did not work in time, and may later.
            UnsafeDirectoryError: The runtime directory is not ours alone.

        """
        with self.locked(patience_s):
            return self.ensure_locked(
                interactive=interactive, patience_s=patience_s, suspect=suspect
            )

    def ensure_locked(
        self,
        *,
        interactive: bool,
        patience_s: float,
        suspect: Process | None = None,
        connect_within_s: int = CONNECT_WITHIN_S,
    ) -> Process:
        """Do as `ensure`; the caller holds `locked`. A connection may take `connect_within_s`."""
        present = self.present()
        if present is not None and present != suspect:
            return present
        self._end_locked()
        patience_s = INTERACTIVE_S if interactive else patience_s
        return self._start(patience_s, connect_within_s, interactive=interactive)

    @contextmanager
    def locked(self, patience_s: float) -> Iterator[None]:
        """Be the only one who starts, repairs or ends it. Raises as `ensure`."""
        runtime_dir(self._environ)
        busy = f"another agentctl is still connecting to {self.name}; try again"
        with lock.held(f"{self.directory}/{self.key}.lock", patience_s, busy):
            yield

    def present(self) -> Process | None:
        """Return the running master, or None. Costs no process and asks it nothing.

        One that was stopped by a signal is none: it answers nobody.

        Raises:
            UnsafeDirectoryError: The runtime directory is not ours alone.

        """
        if not is_private(self.directory):
            return None
        process = _process_in(state.load(self._state_file))
        if process is None:
            return None
        stat = seen(process)
        if stat is None or stat.is_stopped or not os.path.lexists(self.control):
            return None
        return process

    def is_alive(self) -> bool:
        """Say whether the master runs and answers; a frozen one does not."""
        return self.present() is not None and self._ask("check").returncode == 0

    def command(self, remote: str) -> list[str]:
        """Return the command line that runs `remote` through the master.

        It never logs in by itself: without a master it fails with status 255.
        """
        return argv.session_argv(self.ssh_command, self.destination, self.control, remote)

    def run(
        self, remote: str, data: bytes = b"", timeout_s: float = 30.0
    ) -> CompletedProcess[bytes]:
        """Run `remote` in the login shell there, with `data` as its stdin; return what it said.

        Raises:
            TryAgainError: The master is gone, or the time was over.

        """
        done = self._run(self.command(remote), data, timeout_s)
        if done.returncode == _SSH_FAILED and self._ask("check").returncode != 0:
            line = complaints.last_line(done.stderr.decode("utf-8", "replace"))
            raise TryAgainError(f"the link to {self.name} was lost ({line}); try again")
        return done

    def forward(self, local: str, remote: str) -> None:
        """Have the master listen at the socket `local` for the socket `remote` there.

        Says nothing about whether the server allows it: see `probe`. Raises TryAgainError.
        """
        done = self._ask("forward", (local, remote))
        if done.returncode:
            line = complaints.last_line(done.stderr.decode("utf-8", "replace"))
            raise TryAgainError(f"cannot forward a socket to {self.name}: {line}; try again")

    def cancel(self, local: str, remote: str) -> None:
        """Undo `forward`, as far as the master still knows of it; remove the local socket."""
        self._ask("cancel", (local, remote))
        state.forget(local)

    def end(self, patience_s: float = INTERACTIVE_S) -> None:
        """End the master, also a frozen one, and what it listens at. Nothing if there is none.

        Raises:
            TryAgainError: Somebody else was connecting for all of `patience_s`.
            UnsafeDirectoryError: The runtime directory is not ours alone.

        """
        if is_private(self.directory):
            with self.locked(patience_s):
                self._end_locked()

    def _end_locked(self) -> None:
        remembered = state.load(self._state_file)
        process = _process_in(remembered)
        # By its title too: after a restart of the machine the numbers may fit somebody else.
        if process is not None and seen(process) and has_argument(process.pid, self.control):
            for each in (process, *_helpers_of(process, remembered)):
                kill(each)
        elif os.path.lexists(self.control):
            # Whoever started it was killed before it could write down which it is.
            for stat in everyone():
                if has_argument(stat.process.pid, self.control):
                    kill(stat.process)
        self._sweep()

    def _sweep(self) -> None:
        """Remove what a master listened at, and what was remembered of it."""
        for name in os.listdir(self.directory):
            if name.startswith(self.key) and name.endswith((".ctl", ".master", FORWARD, ROUTE)):
                state.forget(f"{self.directory}/{name}")

    def _start(self, patience_s: float, connect_within_s: int, *, interactive: bool) -> Process:
        deadline_s = time.monotonic() + patience_s
        command = argv.master_argv(
            self.ssh_command,
            self.destination,
            self.control,
            interactive=interactive,
            connect_timeout_s=connect_within_s,
        )
        began = _now_ticks()
        launched = self._launch(command, deadline_s, interactive=interactive)
        process = self._listening()
        remembered = {"pid": process.pid, "started_ticks": process.started_ticks}
        if not interactive:
            remembered |= {"session": launched, "from_ticks": began, "to_ticks": _now_ticks()}
        state.store(self._state_file, remembered)
        self.was_there = True
        return process

    def _launch(self, command: list[str], deadline_s: float, *, interactive: bool) -> int:
        """Log in; return the pid of the ssh that did, which is no more. Raises as `ensure`."""
        import subprocess

        # A file, not a pipe: the master keeps it, and its end would never come.
        complaint = os.memfd_create("ssh", os.MFD_CLOEXEC)
        try:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=complaint,
                env=agent_environment(),
                # It stays for minutes and must not hold a directory that long.
                cwd="/",
                # Ctrl-C is not for it; but a question for a person needs the terminal.
                start_new_session=not interactive,
            )
            code = _wait(child, deadline_s, whole_session=not interactive)
            said = os.pread(complaint, 65536, 0).decode("utf-8", "replace")
        except OSError as error:
            program = argv.split_command(self.ssh_command)[0][0]
            raise HostUnreachableError(
                f"cannot run {program}: {error.strerror}; install OpenSSH's client, or name "
                "yours in $AGENTCTL_SSH"
            ) from None
        finally:
            os.close(complaint)
        if code is None:
            raise TryAgainError(
                f"{self.name} did not answer in time; try again, or see: {self.look}"
            )
        if code:
            raise complaints.why(said, self.name, self.look, was_there=self.was_there)
        return child.pid

    def _listening(self) -> Process:
        """Return the process that answers at the control socket."""
        said = self._ask("check").stderr.decode("utf-8", "replace")
        digits = said.partition("pid=")[2].partition(")")[0]
        stat = look(int(digits)) if digits.isdigit() else None
        if stat is None or not has_argument(stat.process.pid, self.control):
            line = complaints.last_line(said)
            raise TryAgainError(f"the link to {self.name} was lost at once ({line}); try again")
        return stat.process

    def _ask(self, request: str, forward: tuple[str, str] | None = None) -> CompletedProcess[bytes]:
        command = argv.control_argv(
            self.ssh_command, self.destination, self.control, request, forward
        )
        try:
            return self._run(command, b"", _ANSWER_WITHIN_S)
        except TryAgainError as error:
            import subprocess

            return subprocess.CompletedProcess(command, _SSH_FAILED, b"", str(error).encode())

    def _run(self, command: list[str], data: bytes, timeout_s: float) -> CompletedProcess[bytes]:
        import subprocess

        try:
            return subprocess.run(
                command,
                input=data,
                capture_output=True,
                env=agent_environment(),
                cwd="/",
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise TryAgainError(
                f"{self.name} did not answer within {timeout_s:.0f} s; try again"
            ) from None
        except OSError as error:
            raise HostUnreachableError(
                f"cannot run {command[0]}: {error.strerror}; install OpenSSH's client"
            ) from None


def _wait(child: Popen[bytes], deadline_s: float, *, whole_session: bool) -> int | None:
    """Return the status of the login, or None if it took too long and was ended."""
    import signal
    import subprocess

    try:
        return child.wait(max(0.0, deadline_s - time.monotonic()))
    except subprocess.TimeoutExpired:
        return None
    finally:
        if child.poll() is None:
            # A jump host's ssh is one of its session; unreaped, its number is nobody else's.
            if whole_session:
                os.killpg(child.pid, signal.SIGKILL)
            child.kill()
            child.wait()


def _process_in(content: object) -> Process | None:
    if not isinstance(content, dict):
        return None
    pid, ticks = content.get("pid"), content.get("started_ticks")
    return Process(pid, ticks) if isinstance(pid, int) and isinstance(ticks, int) else None


def _helpers_of(master: Process, remembered: object) -> list[Process]:
    """Return what a jump host or a ProxyCommand runs for the master; it may outlast its end."""
    window = remembered if isinstance(remembered, dict) else {}
    session, start, end = (window.get(k, 0) for k in ("session", "from_ticks", "to_ticks"))
    return [
        stat.process
        for stat in everyone()
        if stat.parent_pid == master.pid
        or (stat.session == session and start <= stat.process.started_ticks <= end)
    ]


def _now_ticks() -> int:
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * _TICKS_PER_S)
