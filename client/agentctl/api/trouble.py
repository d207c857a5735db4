"""What is told about a link that was lost: once when it lasts, and once when it is back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

#: Shorter losses are nobody's concern.
_TELL_AFTER_S = 2.0


@dataclass(frozen=True, slots=True)
class LinkLost:
    """The host is out of reach; it is tried again until it is back."""

    host: str
    #: What the last attempt said, in one line.
    why: str


@dataclass(frozen=True, slots=True)
class LinkBack:
    """The host answers again. Only told after `LinkLost`."""

    host: str
    #: Since the loss was noticed, in seconds.
    away_s: float


Notice = LinkLost | LinkBack
#: Called from any thread; what it raises is dropped if it is OSError.
OnNotice = Callable[[Notice], None]


class Trouble:
    """The loss of one link, whoever notices it. Safe to use from several threads."""

    def __init__(self, host: str, on_notice: OnNotice | None) -> None:
        """Tell `on_notice` about `host`."""
        self._host = host
        self._on_notice = on_notice
        self._lock = threading.Lock()
        self._began_s: float | None = None
        self._why = ""
        self._told = False
        self._timer: threading.Timer | None = None

    @property
    def is_on(self) -> bool:
        """Whether the link is lost, as far as is known."""
        return self._began_s is not None

    def begin(self, why: str) -> None:
        """Note that an attempt failed, and what it said."""
        with self._lock:
            self._why = why
            if self._began_s is not None:
                return
            self._began_s = time.monotonic()
            if self._on_notice is None:
                return
            self._timer = threading.Timer(_TELL_AFTER_S, self._tell)
            self._timer.daemon = True
            self._timer.start()

    def end(self) -> None:
        """Note that the host answers."""
        with self._lock:
            began_s, told = self._began_s, self._told
            self._forget()
            if told and began_s is not None:
                self._say(LinkBack(self._host, time.monotonic() - began_s))

    def drop(self) -> None:
        """Forget it without a word: nobody waits any more."""
        with self._lock:
            self._forget()

    def _forget(self) -> None:
        self._began_s, self._told = None, False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tell(self) -> None:
        # Under the lock, so that "back" can never be said first.
        with self._lock:
            if self._began_s is None or self._timer is not threading.current_thread():
                return
            self._told = True
            self._say(LinkLost(self._host, self._why))

    def _say(self, notice: Notice) -> None:
        if self._on_notice is None:
            return
        try:
            self._on_notice(notice)
        except OSError:
            # A closed stderr takes no words.
            pass
