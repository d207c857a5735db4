"""The kernel's own word that work stands still for want of memory (accounting/psi.rst)."""

from __future__ import annotations

import errno
import os
import select

#: 0.2 s of stalls within 2 s. Unprivileged a window has to be a multiple of 2 s: the kernel then
#: looks when it averages anyway. The last byte is not looked at (psi_write in kernel/sched/psi.c).
_TRIGGER = b"some 200000 2000000\0"
_REASONS = {
    errno.ENOENT: "the kernel keeps no pressure information (CONFIG_PSI)",
    errno.EOPNOTSUPP: "pressure information is switched off (kernel parameter psi=1)",
    errno.EPERM: "the kernel lets only root wait for pressure (before Linux 6.4)",
    errno.EACCES: "the kernel lets only root wait for pressure (before Linux 6.4)",
    errno.EINVAL: "the kernel takes no trigger of this form (before Linux 6.4)",
}


class PressureTrigger:
    """Wakes up at most once a window; too late for a fast hog, so a second signal only.

    For epoll: EPOLLPRI on `fileno()` is the event, and looking at it uses it up; EPOLLERR means
    that nothing will come any more.
    """

    def __init__(self, descriptor: int) -> None:
        """Take a file a trigger was written to; see `open_trigger`."""
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLPRI)

    def fileno(self) -> int:
        """Return the descriptor to wait for; -1 once closed."""
        return self._descriptor

    def fired(self) -> bool:
        """Say whether there was pressure since the last time somebody looked."""
        if self._descriptor < 0:
            return False
        events = self._poll.poll(0)
        return bool(events) and bool(events[0][1] & select.POLLPRI)

    def close(self) -> None:
        """Take the trigger back."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def open_trigger(path: str = "/proc/pressure/memory") -> PressureTrigger | str:
    """Return a trigger, or in words why there is none."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return _reason(error)
    try:
        os.write(descriptor, _TRIGGER)
        return PressureTrigger(descriptor)
    except OSError as error:
        os.close(descriptor)
        return _reason(error)


def _reason(error: OSError) -> str:
    return _REASONS.get(error.errno or 0) or f"pressure information: {error.strerror}"
