"""What a measurement yields, and how it is printed."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of ours beside one rival's."""

    what: str
    ours: float
    unit: str
    #: Who else, and with what figure; None: there is no such program on this machine.
    rival: str = ""
    theirs: float | None = None
    #: The budget in words, and whether it is met. None: a figure without a budget.
    budget: str = ""
    is_met: bool | None = None

    def cells(self) -> tuple[str, ...]:
        """Return the row as text: what, ours, rival, theirs, ratio, budget, verdict."""
        theirs = "" if not self.rival else "missing" if self.theirs is None else _show(self.theirs)
        ratio = f"{self.ours / self.theirs:.2f}" if self.theirs else ""
        verdict = {None: "", True: "met", False: "MISSED"}[self.is_met]
        ours = f"{_show(self.ours)} {self.unit}"
        return (self.what, ours, self.rival, theirs, ratio, self.budget, verdict)


HEADER = ("what", "ours", "rival", "theirs", "ratio", "budget", "")


def render(rows: Sequence[Row]) -> str:
    """Return the rows as one aligned table."""
    cells = [HEADER, *(row.cells() for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def median_of(runs: int, measure: Callable[[], float]) -> float:
    """Return the median of `runs` measurements."""
    return statistics.median(measure() for _ in range(runs))


def interleaved(runs: int, *measures: Callable[[], float]) -> tuple[float, ...]:
    """Return the median of each, taken in turns, so that a noisy minute meets all alike."""
    taken: Iterable[tuple[float, ...]] = [tuple(m() for m in measures) for _ in range(runs)]
    return tuple(statistics.median(column) for column in zip(*taken, strict=True))


def _show(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
