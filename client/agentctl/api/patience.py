"""How long to go on trying, and with what pauses."""

from __future__ import annotations

import time

from agentctl.errors import AgentctlError

PATIENCE_S = 15.0
_FIRST_PAUSE_S = 0.02
#: To an agent of this machine, and to a host that has been away for a moment only.
_LONGEST_PAUSE_S = 0.5
#: One that has been away for long is asked at most a tenth of that time after it is back ...
_PAUSE_PER_AWAY = 0.1
#: ... and never later than this.
_LONGEST_PAUSE_AWAY_S = 10.0


class Patience:
    """When to give up, and how long to pause before. The time begins with the first failure."""

    def __init__(self, total_s: float = PATIENCE_S) -> None:
        """Give up `total_s` seconds after the first failure since the last sign of life."""
        self._total_s = total_s
        self.renew()

    def renew(self) -> None:
        """Forget the failures so far: there was a sign of life."""
        self._failed_s: float | None = None
        self._pause_s = 0.0

    @property
    def was_needed(self) -> bool:
        """Whether something has failed since the last sign of life."""
        return self._failed_s is not None

    @property
    def left_s(self) -> float:
        """Seconds until it ends; never negative."""
        if self._failed_s is None:
            return self._total_s
        return max(0.0, self._failed_s + self._total_s - time.monotonic())

    def spend(self, error: AgentctlError) -> None:
        """Pause before the next attempt; raise `error` if the time is over."""
        self._failed()
        if self.left_s <= 0:
            raise error
        time.sleep(min(self._pause_s, self.left_s))
        self._pause_s = min(max(self._pause_s * 2, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)

    def linger(self, most_s: float) -> None:
        """Pause before the next attempt, at most `most_s` seconds; never give up."""
        away_s = time.monotonic() - self._failed()
        time.sleep(max(0.0, min(self._pause_s, most_s)))
        longest_s = min(max(_LONGEST_PAUSE_S, away_s * _PAUSE_PER_AWAY), _LONGEST_PAUSE_AWAY_S)
        self._pause_s = min(max(self._pause_s * 2, _FIRST_PAUSE_S), longest_s)

    def _failed(self) -> float:
        """Return the monotonic time of the first failure, which is now if there was none."""
        if self._failed_s is None:
            self._failed_s = time.monotonic()
        return self._failed_s
