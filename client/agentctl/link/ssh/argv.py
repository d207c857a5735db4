"""Command lines of ssh, as values: what is built here is run elsewhere.

`ssh_command` is the user's: the first word whose name begins with "ssh" is the program (words
before it wrap it), what follows are the user's options. The options here stand before those,
since ssh keeps the first value it is given (ssh_config(5)).
"""

from __future__ import annotations

import os
from collections.abc import Sequence

#: Seconds without a session or a connection after which a master ends by itself.
IDLE_S = 600
#: A link that is dead is noticed by the master after 6 to 9 s.
_ALIVE_INTERVAL_S = 3
_ALIVE_COUNT = 2


def split_command(ssh_command: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the program with what wraps it, and the user's options."""
    for at, word in enumerate(ssh_command):
        if os.path.basename(word).startswith("ssh") and os.path.basename(word) != "sshpass":
            return list(ssh_command[: at + 1]), list(ssh_command[at + 1 :])
    return list(ssh_command[:1]), list(ssh_command[1:])


def master_argv(
    ssh_command: Sequence[str],
    destination: str,
    control: str,
    *,
    interactive: bool,
    connect_timeout_s: int,
) -> list[str]:
    """Return the command that authenticates, goes into the background and listens at `control`."""
    program, users = split_command(ssh_command)
    ours = {
        "ControlPersist": str(IDLE_S),
        "ServerAliveInterval": str(_ALIVE_INTERVAL_S),
        "ServerAliveCountMax": str(_ALIVE_COUNT),
        "ConnectTimeout": str(connect_timeout_s),
        # Nothing of the user's that is meant for a person's own session.
        "ClearAllForwardings": "yes",
        "ForwardAgent": "no",
        "ForwardX11": "no",
        "PermitLocalCommand": "no",
        "RemoteCommand": "none",
        "RequestTTY": "no",
        "Tunnel": "no",
        "ExitOnForwardFailure": "yes",
        # These two act on later `-O forward` requests only if the master itself has them.
        "StreamLocalBindUnlink": "yes",
        "StreamLocalBindMask": "0177",
        # Its last line on stderr has to be the reason.
        "LogLevel": "ERROR",
    }
    if not interactive:
        ours["BatchMode"] = "yes"
    # The user may have a control path of his own: the last -S wins.
    end = ["-M", "-N", "-f", "-S", control, "--", destination]
    return [*program, *_options(ours), *users, *end]


def session_argv(
    ssh_command: Sequence[str], destination: str, control: str, remote: str
) -> list[str]:
    """Return the command that runs `remote` through the master and can never log in itself."""
    return [*_client(ssh_command, control), "-T", "--", destination, remote]


def control_argv(
    ssh_command: Sequence[str],
    destination: str,
    control: str,
    request: str,
    forward: tuple[str, str] | None = None,
) -> list[str]:
    """Return the command that asks the master for `request` (ssh(1), -O).

    `forward` is the local and the remote socket of a forward that is made or cancelled.
    """
    listen = [] if forward is None else ["-L", f"{forward[0]}:{forward[1]}"]
    return [*_client(ssh_command, control), "-O", request, *listen, "--", destination]


def _client(ssh_command: Sequence[str], control: str) -> list[str]:
    program, _ = split_command(ssh_command)
    # The user's configuration is the master's business. Read here, it could only harm: a jump
    # host in it would have a client that finds no master log in anew, without a word.
    options = {
        "ControlMaster": "no",
        "ProxyCommand": "false",
        "BatchMode": "yes",
        "LogLevel": "ERROR",
    }
    return [*program, "-F", os.devnull, *_options(options), "-S", control]


def _options(options: dict[str, str]) -> list[str]:
    return [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
