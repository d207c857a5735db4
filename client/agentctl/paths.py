"""Where the local agent keeps its things.

The same rule as `agentd.paths`: neither side imports the other, and a contract test compares
the two.
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
