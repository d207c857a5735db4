"""Where the local agent keeps its things, and where this client keeps its own.

For the agent's the same rule as `agentd.paths`: neither side imports the other, and a contract
test compares the two.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import NamedTuple

#: A unix socket path longer than 107 bytes cannot be bound (unix(7)); the agent stays well below.
MAX_SOCKET_PATH_BYTES = 100


class Paths(NamedTuple):
    """Every place of one agent that the client looks at."""

    state_dir: str
    runtime_dir: str
    config_file: str

    @property
    def pidfile(self) -> str:
        """Locked by the warden for life; JSON with the key "socket"."""
        return f"{self.state_dir}/agent.pid"

    @property
    def log_dir(self) -> str:
        """The agent's own log."""
        return f"{self.state_dir}/log"

    @property
    def socket(self) -> str:
        """Where the agent answers unless its pidfile says otherwise."""
        return f"{self.runtime_dir}/agent.sock"


def default_paths(environ: Mapping[str, str]) -> Paths:
    """Return the places for this user, host and environment. Touches nothing."""
    home = environ.get("HOME") or os.path.expanduser("~")
    state_home = environ.get("XDG_STATE_HOME") or f"{home}/.local/state"
    config_home = environ.get("XDG_CONFIG_HOME") or f"{home}/.config"
    runtime_home = environ.get("XDG_RUNTIME_DIR")
    runtime = f"{runtime_home}/agentd" if runtime_home else f"/tmp/agentd-{os.getuid()}"  # noqa: S108  # the agent checks it: ours, 0700, no symlink
    return Paths(
        state_dir=environ.get("AGENTD_STATE_DIR") or f"{state_home}/agentd/{socket.gethostname()}",
        runtime_dir=environ.get("AGENTD_RUNTIME_DIR") or runtime,
        config_file=environ.get("AGENTCTL_CONFIG") or f"{config_home}/agentctl/config.toml",
    )


def state_directory(environ: Mapping[str, str]) -> str:
    """Return the directory of what the client must not forget. Touches nothing. Pure."""
    return _below("XDG_STATE_HOME", ".local/state", environ)


def cache_directory(environ: Mapping[str, str]) -> str:
    """Return the directory of what the client may forget. Touches nothing. Pure."""
    return _below("XDG_CACHE_HOME", ".cache", environ)


def _below(variable: str, otherwise: str, environ: Mapping[str, str]) -> str:
    base = environ.get(variable)
    if not base or not os.path.isabs(base):
        # A relative one is to be ignored (XDG Base Directory Specification).
        base = f"{environ.get('HOME') or os.path.expanduser('~')}/{otherwise}"
    return f"{base}/agentctl"
