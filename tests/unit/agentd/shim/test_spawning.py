"""What a spawner is made of, since every shim is made of the same."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import agentd
from agentd.shim.leader import IGNORED, Origin
from agentd.shim.rehearsal import rehearse
from tests.unit.agentd.system.sandbox import isolated

ROOT = os.path.dirname(os.path.dirname(agentd.__file__))
#: Each would be copied into every shim's page tables, and touched here and there.
HEAVY = {"collections", "dataclasses", "enum", "inspect", "json", "re", "signal", "socket"}
HEAVY |= {
    "subprocess",
    "threading",
    "traceback",
    "typing",
    "agentd.core.job",
    "agentd.core.contract",
}
ORIGIN = Origin(0o022, resource.getrlimit(resource.RLIMIT_NOFILE))


def test_a_spawner_imports_nothing_heavy() -> None:
    """Neither directly nor through anything it needs."""
    code = (
        "import sys; sys.path.append(sys.argv[1]); import agentd.shim.spawning; print(*sys.modules)"
    )
    command = [sys.executable, "-I", "-S", "-c", code, ROOT]

    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()

    assert "agentd.shim.main" in loaded
    assert HEAVY & set(loaded) == set()


@isolated
def test_a_rehearsal_leaves_no_trace(tmp_path: Path) -> None:
    """No directory, no child, no handler, and what lay there before is gone."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (scratch / "exit.json").write_text("of one that was killed at its rehearsal")
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)

    rehearse(str(scratch), ORIGIN)

    assert os.listdir(tmp_path) == []
    assert os.getcwd() == "/"
    assert signal.set_wakeup_fd(-1) == -1
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@isolated
def test_a_rehearsal_without_a_stage_is_left_out(tmp_path: Path) -> None:
    """It saves memory; no job depends on it."""
    (tmp_path / "scratch").write_text("a file")

    rehearse(str(tmp_path / "scratch"), ORIGIN)

    rehearse("/proc/no/such/place", ORIGIN)
    assert os.getcwd() == "/"
