"""Whom the kernel would take first."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

from agentd.system import oomscore
from tests.unit.agentd.system.sandbox import isolated

_PR_SET_DUMPABLE = 4
SCORE = Path("/proc/self/oom_score_adj")


@isolated
@pytest.mark.parametrize(
    ("score", "raised"), [(0, 500), (100, 600), (700, 1000), (1000, 1000)], ids=str
)
def test_a_job_volunteers(score: int, raised: int) -> None:
    """By 500, up to the most there is, never down."""
    SCORE.write_text(str(score), encoding="ascii")

    oomscore.volunteer()

    assert int(SCORE.read_text(encoding="ascii")) == raised


@isolated
def test_anybody_may_volunteer() -> None:
    """Raising takes no privilege (proc(5))."""
    before = int(SCORE.read_text(encoding="ascii"))
    if os.getuid() == 0:
        os.setresuid(65534, 65534, 65534)
        # A process that changed its ids belongs to root until it says otherwise (proc(5)).
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)

    oomscore.volunteer()

    assert int(SCORE.read_text(encoding="ascii")) == min(1000, before + 500)
