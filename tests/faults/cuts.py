"""Every way in which a link over ssh is cut, each at once or for a while."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass

from tests.helpers.sshrig import SshRig
from tests.helpers.wait import dawdle, wait_until


@dataclass(frozen=True, slots=True)
class Cut:
    """One way, and how long the link may be away after it is over."""

    #: Does it; returns when nothing hinders the link any more.
    do: Callable[[SshRig], None]
    #: Seconds from then on until the next byte, on a machine that is busy with tests.
    back_within_s: float
    #: Needs a cable to pull (root only).
    needs_cable: bool = False
    #: What it hits is of no use any more and must be gone once the link is back.
    hits_master: bool = False


#: A link that is closed is made anew at once; the budget on a calm machine is 2 s.
_CLOSED_S = 8.0
#: A link that is silent has to be found out first; the budget on a calm machine is 10 s.
_SILENT_S = 20.0


def _signal_masters(rig: SshRig, number: signal.Signals) -> None:
    # Between two masters there is none for a moment.
    pids = wait_until(rig.master_pids, deadline_s=30, what="a master to be cut")
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def _kill_master(rig: SshRig) -> None:
    _signal_masters(rig, signal.SIGKILL)


def _end_master(rig: SshRig) -> None:
    _signal_masters(rig, signal.SIGTERM)


def _freeze_master(rig: SshRig) -> None:
    """Freeze it for good: whoever needs the link has to get rid of it."""
    _signal_masters(rig, signal.SIGSTOP)


def _freeze_sessions(rig: SshRig) -> None:
    """Freeze the server's side of every connection for good."""
    for pid in rig.sshd.session_pids():
        try:
            os.kill(pid, signal.SIGSTOP)
        except ProcessLookupError:
            continue


def _end_sessions(rig: SshRig) -> None:
    rig.sshd.end_sessions()


def _restart_sshd(rig: SshRig) -> None:
    """Be away for a second, as a server that is restarted."""
    rig.sshd.stop()
    dawdle(1.0)
    rig.sshd.start()


def _kill_server(rig: SshRig) -> None:
    pid = wait_until(rig.server.server_pid, deadline_s=30, what="a server to be killed")
    _kill(pid)


def _kill_agent(rig: SshRig) -> None:
    """Kill warden and server; nobody on the server will start them again."""
    warden = wait_until(rig.server.warden_pid, deadline_s=30, what="a warden to be killed")
    server = rig.server.server_pid()
    _kill(warden)
    _kill(server)


def _pull_cable(rig: SshRig) -> None:
    assert rig.cable is not None
    rig.cable.pull()
    dawdle(4.0)
    rig.cable.plug()


def _pull_cable_for_long(rig: SshRig) -> None:
    """Longer than ssh waits for a sign of life."""
    assert rig.cable is not None
    rig.cable.pull()
    dawdle(15.0)
    rig.cable.plug()


def _kill(pid: int) -> None:
    if pid:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return


CUTS = {
    "master killed": Cut(_kill_master, _CLOSED_S, hits_master=True),
    "master ended": Cut(_end_master, _CLOSED_S, hits_master=True),
    "master frozen": Cut(_freeze_master, _SILENT_S, hits_master=True),
    "sessions ended": Cut(_end_sessions, _CLOSED_S),
    "sessions frozen": Cut(_freeze_sessions, _SILENT_S),
    "sshd restarted": Cut(_restart_sshd, _CLOSED_S),
    "server killed": Cut(_kill_server, _CLOSED_S),
    "agent killed": Cut(_kill_agent, _SILENT_S),
    "cable pulled": Cut(_pull_cable, _SILENT_S, needs_cable=True),
    "cable pulled for long": Cut(_pull_cable_for_long, _SILENT_S, needs_cable=True),
}


def random_cuts(chance: random.Random, count: int, *, has_cable: bool = False) -> list[str]:
    """Return names of cuts, every one of them before any comes again."""
    names = [name for name, cut in CUTS.items() if has_cable or not cut.needs_cable]
    chosen: list[str] = []
    while len(chosen) < count:
        chosen += chance.sample(names, len(names))
    return chosen[:count]
