"""A machine with 1 GB of memory, hogs that take three: it lives on, and the hog's end is told."""

from __future__ import annotations

import pytest

from tests.helpers.vm.machine import machine
from tests.helpers.vm.survival import all_wrong, guarded

#: `make bench ONLY=vm` does twenty.
RUNS = 2


@pytest.mark.timeout(900)
@pytest.mark.parametrize("layer", ["with a delegated cgroup", "without any cgroup of our own"])
def test_the_machine_survives_its_hogs(layer: str) -> None:
    """One hog, a threaded one and a bomb of them: only the job ends, and it says why.

    Without a cgroup a bomb of fifty hogs keeps two emulated processors from the guard for longer
    than a machine of this size lasts: that one is measured by the bench, and promised by nobody.
    """
    delegated = layer == "with a delegated cgroup"
    kinds = ("single", "threads", "bomb") if delegated else ("single", "threads")
    plan = guarded(RUNS, has_manager=delegated, kinds=kinds)
    with machine(plan) as vm:
        vm.wait_over(600)
        runs, (agent,), log = (vm.reports(kind) for kind in ("run", "agent", "log"))

    assert agent["has_own_cgroup"] is delegated, agent
    assert len(runs) == len(plan.hogs)
    assert all_wrong(runs) == [], log
