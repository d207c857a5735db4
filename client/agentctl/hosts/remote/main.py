"""The program: does what the first line after the sources asks for, and tells how it went."""

from __future__ import annotations

import errno
import os
import signal
import threading

from agentctl.hosts.remote.installing import install
from agentctl.hosts.remote.peer import Peer, SetupError, give_up, watch_for_hangup
from agentctl.hosts.remote.places import data_root
from agentctl.hosts.remote.removing import remove

_SPACE = (errno.ENOSPC, errno.EDQUOT)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)


def main(mark: str) -> None:
    """Do what the line after this source asks for, and tell how it went."""
    # Also where a group's members share everything by default: nobody may change these programs.
    users_umask = os.umask(0o077)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, give_up)
    peer = Peer(mark, users_umask)
    threading.Thread(target=peer.keep_talking, daemon=True).start()
    try:
        asked = peer.line()
        threading.Thread(target=watch_for_hangup, daemon=True).start()
        done = {"install": install, "remove": remove}[asked["ask"]](asked, peer)
        peer.tell("done", **done)
    except SetupError as failure:
        peer.tell(**failure.told)
    except OSError as error:
        kind = "space" if error.errno in _SPACE else "denied" if error.errno in _DENIED else "os"
        path = str(error.filename or data_root())
        peer.tell("error", kind=kind, text=f"{path}: {error.strerror}", root=data_root())
    except Exception as error:  # noqa: BLE001  # the rim: the client shows it as one line
        peer.tell("error", kind="internal", text=f"{type(error).__name__}: {error}")
