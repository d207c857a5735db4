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
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from agentctl.errors import ClientClosedError, HostUnreachableError, TryAgainError
from agentctl.link.local import agent_environment
from agentctl.link.names import check_destination
from agentctl.link.private import forget_file, is_private, runtime_dir, runtime_path
from agentctl.link.ssh import argv, complaints, family, lock, state
from agentctl.link.ssh.process import Process, has_argument, kill, look, seen

if TYPE_CHECKING:
    from subprocess import CompletedProcess, Popen
    from typing import Any

#: How long a person may take to type a password or a code; sshd's own LoginGraceTime is as long.
INTERACTIVE_S = 120.0
#: The most a healthy master needs for an answer that asks nobody else.
_ANSWER_WITHIN_S = 5.0
#: For a TCP connection and the first line of the server; a jump host counts to it.
CONNECT_WITHIN_S = 10
_SSH_FAILED = 255
#: More than any answer has, with all that start-up files may print around it.
_LONGEST_ANSWER_BYTES = 4 << 20
_LOOK_EVERY_S = 0.02
#: Ends of names in the runtime directory that begin with the key of a master and go with it.
FORWARD = ".sock"
ROUTE = ".route"
_ENDS = (".ctl", ".master", ".login", FORWARD, ROUTE)


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
        self._guard = threading.Lock()
        #: What runs for this object now, and whether it is a login in a session of its own.
        self._children: dict[Popen[bytes], bool] = {}
        self._is_abandoned = False
        #: The runtime directory; it may not exist before the first `ensure`.
        self.directory = runtime_path(self._environ)
        #: How the names of all its files begin.
        self.key = state.key(destination, *self.ssh_command)
        #: Path of the control socket.
        self.control = f"{self.directory}/{self.key}.ctl"
        self._state_file = f"{self.directory}/{self.key}.master"
        self._login_file = f"{self.directory}/{self.key}.login"

    def abandon(self) -> None:
        """End what runs for this object, and start nothing more. The master stays for others.

        So does a login that asks nobody: it is written down, ends by its own time-out, and is
        there for the next one, who may have as little time as this one had. Returns at once;
        whoever waits for anything else in another thread gets an AgentctlError.
        """
        with self._guard:
            self._is_abandoned = True
            for child, is_login in self._children.items():
                if not is_login:
                    _kill(child, whole_session=False)

    @contextmanager
    def _running(
        self,
        command: Sequence[str],
        *,
        own_session: bool = False,
        **streams: Any,  # noqa: ANN401  # those of Popen
    ) -> Iterator[Popen[bytes]]:
        """Start `command`; at the end of the block it is over, by force if need be.

        Raises:
            ClientClosedError: After `abandon`.
            OSError: It cannot be run.

        """
        import subprocess

        with self._guard:
            if self._is_abandoned:
                raise ClientClosedError("this client was closed; make a new one")
            child = subprocess.Popen(
                command,
                env=agent_environment(),
                # A master stays for minutes and must not hold a directory that long.
                cwd="/",
                start_new_session=own_session,
                **streams,
            )
            self._children[child] = own_session
        try:
            with child:
                try:
                    yield child
                finally:
                    _kill(child, whole_session=own_session)
        finally:
            with self._guard:
                del self._children[child]

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
        deadline_s = time.monotonic() + patience_s
        if present is None:
            left = self._left_behind(deadline_s)
            if left is not None and left != suspect:
                return left
        self._end_locked()
        if interactive:
            deadline_s = time.monotonic() + INTERACTIVE_S
        return self._start(deadline_s, connect_within_s, interactive=interactive)

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
        process = family.process_in(state.load(self._state_file))
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
            HostUnreachableError: It says more than anybody would keep.

        """
        done = self._run(self.command(remote), data, timeout_s)
        if done.returncode == _SSH_FAILED and self._ask("check").returncode != 0:
            line = complaints.last_line(done.stderr.decode("utf-8", "replace"))
            raise TryAgainError(f"the link to {self.name} was lost ({line}); try again")
        return done

    def forward(self, local: str, remote: str, within_s: float = _ANSWER_WITHIN_S) -> None:
        """Have the master listen at the socket `local` for the socket `remote` there.

        Says nothing about whether the server allows it: see `probe`. Raises TryAgainError.
        """
        done = self._ask("forward", (local, remote), within_s)
        if done.returncode:
            line = complaints.last_line(done.stderr.decode("utf-8", "replace"))
            raise TryAgainError(f"cannot forward a socket to {self.name}: {line}; try again")

    def cancel(self, local: str, remote: str) -> None:
        """Undo `forward`, as far as the master still knows of it; remove the local socket."""
        self._ask("cancel", (local, remote))
        forget_file(local)

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
        remembered = map(state.load, (self._state_file, self._login_file))
        for process in family.family(self.control, *remembered):
            kill(process)
        self._sweep()

    def _sweep(self) -> None:
        """Remove what a master listened at, and what was remembered of it."""
        for name in os.listdir(self.directory):
            if name.startswith(self.key) and name.endswith(_ENDS):
                forget_file(f"{self.directory}/{name}")

    def _left_behind(self, deadline_s: float) -> Process | None:
        """Return the master of a login whose client was killed, and write it down."""
        login = state.load(self._login_file)
        self._await_login(login, deadline_s)
        if not os.path.lexists(self.control):
            return None
        # One that is stopped would keep us waiting for its answer.
        if not any(not stat.is_stopped for stat in family.masters(self.control)):
            return None
        try:
            process = self._listening()
        except TryAgainError:
            return None
        for stat in family.masters(self.control):
            # It lost the race for the control path, and would stay for ever.
            if stat.process != process:
                kill(stat.process)
        self._remember(process, {**login, "to_ticks": process.started_ticks})
        return process

    def _await_login(self, login: Mapping[str, object], deadline_s: float) -> None:
        """Wait until the login is over, or has taken longer than was planned for it."""
        process, to_ticks = family.process_in(login), login.get("to_ticks")
        if process is None or not isinstance(to_ticks, int):
            return
        while time.monotonic() < deadline_s and family.now_ticks() < to_ticks:
            stat = seen(process)
            if stat is None or stat.is_stopped or not has_argument(process.pid, self.control):
                return
            if self._is_abandoned:
                raise ClientClosedError("this client was closed; make a new one")
            time.sleep(_LOOK_EVERY_S)

    def _remember(self, process: Process, login: Mapping[str, object]) -> None:
        """Write down which process is the master, and of which login."""
        state.store(self._state_file, {**login, **process._asdict()})
        forget_file(self._login_file)

    def _start(self, deadline_s: float, connect_within_s: int, *, interactive: bool) -> Process:
        command = argv.master_argv(
            self.ssh_command,
            self.destination,
            self.control,
            interactive=interactive,
            connect_timeout_s=connect_within_s,
        )
        login = self._launch(command, deadline_s, interactive=interactive)
        process = self._listening()
        self._remember(process, {**login, "to_ticks": family.now_ticks()})
        self.was_there = True
        return process

    def _launch(
        self, command: list[str], deadline_s: float, *, interactive: bool
    ) -> Mapping[str, object]:
        """Log in; return what was written down of it. Raises as `ensure`."""
        import subprocess

        began_ticks = family.now_ticks()
        # A file, not a pipe: the master keeps it, and its end would never come.
        complaint = os.memfd_create("ssh", os.MFD_CLOEXEC)
        try:
            with self._running(
                command,
                # Ctrl-C is not for it; but a question for a person needs the terminal.
                own_session=not interactive,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=complaint,
            ) as child:
                login = {
                    **_process_of(child),
                    "session": 0 if interactive else child.pid,
                    "from_ticks": began_ticks,
                    "to_ticks": family.ticks_until(deadline_s),
                }
                state.store(self._login_file, login)
                code = _wait(child, deadline_s)
            said = os.pread(complaint, 65536, 0).decode("utf-8", "replace")
        except OSError as error:
            program = argv.split_command(self.ssh_command)[0][0]
            raise HostUnreachableError(
                f"cannot run {program}: {error.strerror}; install OpenSSH's client, or name "
                "yours in $AGENTCTL_SSH"
            ) from None
        finally:
            os.close(complaint)
        if code == 0:
            return login
        forget_file(self._login_file)
        if code is None:
            raise TryAgainError(
                f"{self.name} did not answer in time; try again, or see: {self.look}"
            )
        raise complaints.why(said, self.name, self.look, was_there=self.was_there)

    def _listening(self) -> Process:
        """Return the process that answers at the control socket."""
        said = self._ask("check").stderr.decode("utf-8", "replace")
        digits = said.partition("pid=")[2].partition(")")[0]
        stat = look(int(digits)) if digits.isdigit() else None
        if stat is None or not has_argument(stat.process.pid, self.control):
            line = complaints.last_line(said)
            raise TryAgainError(f"the link to {self.name} was lost at once ({line}); try again")
        return stat.process

    def _ask(
        self,
        request: str,
        forward: tuple[str, str] | None = None,
        within_s: float = _ANSWER_WITHIN_S,
    ) -> CompletedProcess[bytes]:
        command = argv.control_argv(
            self.ssh_command, self.destination, self.control, request, forward
        )
        try:
            return self._run(command, b"", within_s)
        except TryAgainError as error:
            import subprocess

            return subprocess.CompletedProcess(command, _SSH_FAILED, b"", str(error).encode())

    def _run(self, command: list[str], data: bytes, timeout_s: float) -> CompletedProcess[bytes]:
        import subprocess

        from agentctl.link.ssh import capped

        pipe = subprocess.PIPE
        try:
            with self._running(command, stdin=pipe, stdout=pipe, stderr=pipe) as child:
                out, said = capped.communicate(child, data, timeout_s, _LONGEST_ANSWER_BYTES)
            return subprocess.CompletedProcess(command, child.returncode, out, said)
        except subprocess.TimeoutExpired:
            raise TryAgainError(
                f"{self.name} did not answer within {timeout_s:.0f} s; try again"
            ) from None
        except capped.TooMuchError:
            raise HostUnreachableError(
                f"{self.name} printed more than {_LONGEST_ANSWER_BYTES >> 20} MiB where an answer "
                f"was expected; see what its start-up files print: {self.look}"
            ) from None
        except OSError as error:
            raise HostUnreachableError(
                f"cannot run {command[0]}: {error.strerror}; install OpenSSH's client"
            ) from None


def _wait(child: Popen[bytes], deadline_s: float) -> int | None:
    """Return the status of the login, or None if it took too long."""
    import subprocess

    try:
        return child.wait(max(0.0, deadline_s - time.monotonic()))
    except subprocess.TimeoutExpired:
        return None


def _kill(child: Popen[bytes], *, whole_session: bool) -> None:
    """Kill it if it runs; whoever started it reaps it."""
    import signal

    if child.poll() is None:
        # A jump host's ssh is one of its session; unreaped, its number is nobody else's.
        if whole_session:
            try:
                os.killpg(child.pid, signal.SIGKILL)
            except ProcessLookupError:
                # It has ended meanwhile, and another thread has reaped it.
                return
        child.kill()


def _process_of(child: Popen[bytes]) -> dict[str, object]:
    """Return what names a child that is not reaped."""
    stat = look(child.pid)
    return {} if stat is None else dict(stat.process._asdict())
