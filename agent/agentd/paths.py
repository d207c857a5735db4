"""Where the agent keeps its things; the only reader of the environment for that.

State is keyed by host name, because a home directory may be shared over NFS; locks and
sockets live in the runtime directory, on a local disk. The client has the same rule in
`agentctl.paths`: neither side imports the other, and a contract test compares the two.

The bridge is started for every connection of a client that may not forward sockets, so that
neither `dataclasses` nor `socket`, each as slow as the interpreter itself, is loaded here.
"""

from __future__ import annotations

import os

from agentd.core.value import Value
from agentd.errors import UnsafeDirectoryError
from agentd.system.files import ensure_private_directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

#: A unix socket path longer than 107 bytes cannot be bound (unix(7)); we stay well below.
MAX_SOCKET_PATH_BYTES = 100


class Paths(Value):
    """Every place of one agent."""

    __slots__ = ("config_file", "runtime_dir", "state_dir")

    def __init__(self, state_dir: str, runtime_dir: str, config_file: str) -> None:
        """Name the three places from which all others follow."""
        self.state_dir = state_dir
        self.runtime_dir = runtime_dir
        self.config_file = config_file

    @property
    def jobs(self) -> str:
        """One directory a job."""
        return f"{self.state_dir}/jobs"

    @property
    def live(self) -> str:
        """One name for each job whose end is not yet in the index."""
        return f"{self.state_dir}/live"

    @property
    def marker(self) -> str:
        """The empty file to which the names in live/ are links."""
        return f"{self.state_dir}/live.marker"

    @property
    def database(self) -> str:
        """The index."""
        return f"{self.state_dir}/jobs.db"

    @property
    def last_id(self) -> str:
        """The highest id among removed jobs, so that no id is used twice."""
        return f"{self.state_dir}/last-id"

    @property
    def pidfile(self) -> str:
        """Locked by the warden for life; JSON: pid, start ticks, boot id, socket."""
        return f"{self.state_dir}/agent.pid"

    @property
    def guard_policy(self) -> str:
        """The guard's policy last in force, for a warden without a server."""
        return f"{self.state_dir}/guard.json"

    @property
    def guard_state(self) -> str:
        """Which jobs the guard has its hand on just now. Never on a disk that may hang (NFS)."""
        return f"{self.runtime_dir}/guard.state"

    @property
    def log_dir(self) -> str:
        """The agent's own log."""
        return f"{self.state_dir}/log"

    @property
    def socket(self) -> str:
        """Where the server answers."""
        return f"{self.runtime_dir}/agent.sock"

    def job(self, job_id: int) -> str:
        """Return the directory of one job."""
        return f"{self.state_dir}/jobs/{job_id}"


def default_paths(environ: Mapping[str, str]) -> Paths:
    """Return the places for this user, host and environment. Touches nothing."""
    home = environ.get("HOME") or os.path.expanduser("~")
    state_home = environ.get("XDG_STATE_HOME") or f"{home}/.local/state"
    config_home = environ.get("XDG_CONFIG_HOME") or f"{home}/.config"
    runtime_home = environ.get("XDG_RUNTIME_DIR")
    runtime = f"{runtime_home}/agentd" if runtime_home else f"/tmp/agentd-{os.getuid()}"  # noqa: S108  # checked: ours, 0700, no symlink
    return Paths(
        state_dir=environ.get("AGENTD_STATE_DIR") or f"{state_home}/agentd/{os.uname().nodename}",
        runtime_dir=environ.get("AGENTD_RUNTIME_DIR") or runtime,
        config_file=environ.get("AGENTCTL_CONFIG") or f"{config_home}/agentctl/config.toml",
    )


def prepare(paths: Paths) -> None:
    """Make and check every directory the agent needs.

    Raises:
        UnsafeDirectoryError: One is not ours alone, or a path is too long or not absolute.

    """
    for path in (paths.state_dir, paths.runtime_dir, paths.config_file):
        if not os.path.isabs(path):
            # Warden and server work in /, clients elsewhere: they would not mean the same place.
            raise UnsafeDirectoryError(f"{path!r} is not an absolute path; set one that is")
    if len(os.fsencode(paths.socket)) > MAX_SOCKET_PATH_BYTES:
        raise UnsafeDirectoryError(
            f"the socket path {paths.socket} is longer than {MAX_SOCKET_PATH_BYTES} bytes; "
            "set AGENTD_RUNTIME_DIR to a shorter directory"
        )
    for path in (paths.state_dir, paths.runtime_dir, paths.jobs, paths.live, paths.log_dir):
        ensure_private_directory(path)
