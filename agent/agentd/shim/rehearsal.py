"""A few short lives of a shim, lived by the spawner itself before it forks the first one.

What the interpreter learns as it runs (bytecode specialised at the eighth call, attributes
found before) it writes into code objects and caches. Learned here, it is shared by all shims;
else each has its own copy of those pages: a quarter of its memory, measured with 200 shims.
"""

from __future__ import annotations

import os

from agentd.shim import main as shim
from agentd.shim import records
from agentd.shim.main import NewJob
from agentd.system import jobfiles, seqpacket
from agentd.system.complaint import complain
from agentd.system.files import write_all
from agentd.system.signals import set_wakeup_fd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agentd.shim.leader import Origin

_LIVES = 10
_SPEC = {
    "id": 0,
    "uid": "",
    "argv": ["/bin/true"],
    "cwd": "/",
    "environment": {},
    "timeout_s": None,
    "grace_s": 0,
    "output": {"kind": "merged"},
    "log_segment_bytes": 1,
    "log_retention_bytes": 1,
}


def rehearse(scratch: str, origin: Origin) -> None:
    """Mind jobs that end at once, in `scratch`. Leaves descriptors open, and no other trace."""
    try:
        _clear(scratch)
        for _ in range(_LIVES):
            os.mkdir(scratch, 0o700)
            os.chdir(scratch)
            _live(origin)
            _clear(scratch)
    except Exception as error:  # noqa: BLE001  # it costs the shims memory and nothing else
        complain(f"spawner: no rehearsal: {error}")
    finally:
        set_wakeup_fd(-1)
        os.chdir("/")


def _live(origin: Origin) -> None:
    _write(jobfiles.SPEC, records.dump(_SPEC))
    _write(jobfiles.PID, b" " * jobfiles.PID_ROOM_BYTES)
    # Held to the end: a shim whose warden is gone makes a socket for the next one.
    warden, control = seqpacket.pair()
    shim.mind(control.detach(), NewJob("merged", origin))
    warden.close()


def _write(name: str, data: bytes) -> None:
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        write_all(descriptor, data)
    finally:
        os.close(descriptor)


def _clear(scratch: str) -> None:
    try:
        names = os.listdir(scratch)
    except FileNotFoundError:
        return
    for name in names:
        os.unlink(f"{scratch}/{name}")
    os.rmdir(scratch)
