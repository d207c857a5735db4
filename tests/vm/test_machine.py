"""The test machine boots, does what it is told, and goes."""

from __future__ import annotations

import os

import pytest

from tests.helpers.vm.machine import Plan, machine
from tests.helpers.wait import wait_until

AGENTCTL = ("/usr/bin/python3", "-m", "agentctl")


@pytest.mark.timeout(600)
def test_a_job_runs_on_the_test_machine() -> None:
    """The project as it stands, Debian's interpreter, a user with a systemd of their own."""
    commands = (
        (*AGENTCTL, "run", "--", "echo", "from a job"),
        ("systemctl", "--user", "show", "--value", "--property=Version"),
        ("cat", "/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/cgroup.controllers"),
    )
    with machine(Plan("nothing", has_manager=True, commands=commands)) as vm:
        vm.wait_over(300)
        ran, systemd, controllers = vm.reports("command")

    assert (ran["rc"], ran["stdout"]) == (0, "from a job\n"), ran
    assert systemd["stdout"].startswith("252"), systemd
    assert "memory" in controllers["stdout"].split(), controllers


@pytest.mark.timeout(600)
def test_a_machine_that_is_left_in_the_middle_is_gone() -> None:
    """No process and no file of it outlives the block, even if it had just begun."""
    with machine(Plan("nothing", has_manager=False)) as vm:
        where = vm.directory
        wait_until((where / "console").exists, deadline_s=60, what="its serial line")
    assert not os.path.exists(where)
