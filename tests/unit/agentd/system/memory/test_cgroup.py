"""A job in a cgroup of its own, as the kernel bills it."""

from __future__ import annotations

import os

import pytest

from agentd.core.guard.model import Charge
from agentd.system.memory.cgroup import CgroupGauge
from tests.helpers.descriptors import held
from tests.unit.agentd.system.memory.rigs import MIB, fresh, lay_out

# memory.stat as Linux 6.8 writes it, shortened in the middle.
_FILES = {
    "memory.current": f"{100 * MIB}\n",
    "memory.swap.current": f"{7 * MIB}\n",
    "memory.max": f"{200 * MIB}\n",
    "memory.peak": f"{150 * MIB}\n",
    "memory.events": "low 0\nhigh 0\nmax 12\noom 2\noom_kill 3\noom_group_kill 1\n",
    "memory.stat": f"anon {30 * MIB}\nfile {60 * MIB}\nkernel 5\nshmem {20 * MIB}\n"
    "file_mapped 0\nanon_thp 0\ninactive_anon 1\nactive_file 5\n",
    "pids.current": "4\n",
}


@fresh
def test_cache_is_in_the_bound_and_not_in_the_charge(tmp_path: object) -> None:
    """Shared memory is; and swap is in both."""
    before = held()
    gauge = CgroupGauge(3, lay_out(str(tmp_path), _FILES))
    sample = gauge.charge(9)
    assert (sample.job_id, sample.at_ns, sample.processes) == (3, 9, 4)
    assert sample.upper_bytes == 107 * MIB
    assert sample.charge == Charge(57 * MIB, 57 * MIB)
    assert not sample.is_partial
    assert gauge.resident(10, has_swap=False).upper_bytes == 100 * MIB
    assert (gauge.peak_bytes(), gauge.limit_bytes(), gauge.oom_kills()) == (150 * MIB, 200 * MIB, 3)
    gauge.close()
    assert held() <= before


def test_a_job_without_limit_or_swap_accounting_is_measured_all_the_same(tmp_path: object) -> None:
    """memory.max of `max`; no memory.swap.current, no memory.peak."""
    files = {name: text for name, text in _FILES.items() if "swap" not in name}
    del files["memory.peak"]
    gauge = CgroupGauge(3, lay_out(str(tmp_path), {**files, "memory.max": "max\n"}))
    sample = gauge.charge(9)
    assert (sample.upper_bytes, sample.charge) == (100 * MIB, Charge(50 * MIB, 50 * MIB))
    assert (gauge.limit_bytes(), gauge.peak_bytes()) == (None,) * 2
    gauge.close()


@pytest.mark.parametrize("content", ["", "x\n", "-5\n", "anon\n", "anon 5\nshmem", "\0"])
def test_odd_contents_leave_the_last_value_and_no_charge(tmp_path: object, content: str) -> None:
    """And raise nothing."""
    path = lay_out(str(tmp_path), _FILES)
    gauge = CgroupGauge(3, path)
    gauge.resident(1)
    lay_out(path, dict.fromkeys(_FILES, content))
    sample = gauge.charge(2)
    assert (sample.upper_bytes, sample.charge, sample.is_partial) == (107 * MIB, None, True)
    assert (gauge.peak_bytes(), gauge.oom_kills()) == (None, None)
    gauge.close()


def test_a_removed_cgroup_raises_nothing(tmp_path: object) -> None:
    """Its last process has ended."""
    path = lay_out(str(tmp_path), _FILES)
    gauge = CgroupGauge(3, path)
    for name in _FILES:
        os.unlink(f"{path}/{name}")
    sample = gauge.charge(2)
    assert (sample.upper_bytes, sample.charge, sample.is_partial) == (0, None, True)
    assert (gauge.peak_bytes(), gauge.oom_kills(), gauge.limit_bytes()) == (None,) * 3
    gauge.close()
