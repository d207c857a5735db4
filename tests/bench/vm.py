"""Hogs on a machine with 1 GB of memory: ours, Debian's guards, and nothing."""

from __future__ import annotations

from collections.abc import Iterator

from tests.bench.stage import Stage
from tests.bench.table import Row
from tests.helpers.vm.machine import Report, machine
from tests.helpers.vm.survival import guarded, harm, unexplained, unguarded

RUNS = 20
#: A rival's machine may hang in any run: a few are enough to see what it does.
RIVAL_RUNS = 3
#: In one boot, so that a hung machine costs no more than these.
_RUNS_A_BOOT = 4
_RIVALS = ("earlyoom", "systemd-oomd", "nothing")
_KINDS = 3
_BOOT_S = 120
_RUN_S = 120


def measure(stage: Stage) -> list[Row]:
    """Return how many runs went well, and what the rivals' machines did with the same hogs."""
    theirs = {name: list(_rival_runs(name)) for name in _RIVALS}
    rows = []
    for layer, has_manager in (("with cgroup", True), ("without cgroup", False)):
        ours = list(_our_runs(has_manager=has_manager))
        wanted = RUNS * _KINDS
        well = sum(not harm(run) for run in ours)
        told = sum(not unexplained(run) for run in ours)
        for name, runs in theirs.items():
            share = 100 * sum(not harm(run) for run in runs) / (RIVAL_RUNS * _KINDS)
            what = f"1 GB machine unharmed, {layer}, {wanted} runs"
            ours_percent = 100 * well / wanted
            rows.append(Row(what, ours_percent, "%", name, share, "100 %", well == wanted))
        what = f"1 GB machine, {layer}: reason told"
        rows.append(Row(what, 100 * told / wanted, "%", budget="100 %", is_met=told == wanted))
    return rows


def _our_runs(*, has_manager: bool) -> Iterator[Report]:
    for _ in range(0, RUNS, _RUNS_A_BOOT):
        with machine(guarded(_RUNS_A_BOOT, has_manager=has_manager)) as vm:
            vm.is_off_within(_BOOT_S + _RUN_S * _RUNS_A_BOOT * _KINDS)
            yield from vm.reports("run")


def _rival_runs(name: str) -> Iterator[Report]:
    for _ in range(RIVAL_RUNS):
        with machine(unguarded(name, 1)) as vm:
            vm.is_off_within(_BOOT_S + _RUN_S * _KINDS)
            yield from vm.reports("run")
