"""Old samples convict nobody: the caller may hand in anything it has."""

from __future__ import annotations

import pytest

from agentd.core.guard.model import (
    Act,
    Charge,
    Freeze,
    GuardPolicy,
    HostSample,
    JobSample,
    Look,
    Rules,
    Terminate,
)
from agentd.core.guard.policy import Memory, decide
from agentd.core.guard.units import GIB, MIB, MS_NS, S_NS

_START_NS = 1000 * S_NS
_RULES = {1: Rules(1, limit_bytes=GIB)}


def _look(at_ns: int, sample_ns: int | None) -> Look:
    charge = Charge(2 * GIB, 2 * GIB)
    jobs = {} if sample_ns is None else {1: JobSample(1, sample_ns, 2 * GIB, charge, 1)}
    return Look(at_ns, HostSample(at_ns, 24 * GIB, 20 * GIB), jobs, _RULES)


def _acts(memory: Memory, look: Look) -> tuple[Act, ...]:
    return decide(GuardPolicy(), memory, look).acts


@pytest.mark.parametrize(("age_ms", "acts"), [(0, (Freeze(1),)), (499, (Freeze(1),)), (501, ())])
def test_a_sample_older_than_half_a_second_leads_to_no_act(
    age_ms: int, acts: tuple[Act, ...]
) -> None:
    """Guilty as it was then."""
    assert _acts(Memory(), _look(_START_NS, _START_NS - age_ms * MS_NS)) == acts


def test_a_sample_from_before_an_act_leads_to_no_second_one() -> None:
    """What was measured before the freeze says nothing about the frozen job."""
    frozen = decide(GuardPolicy(), Memory(), _look(_START_NS, _START_NS))
    assert frozen.acts == (Freeze(1),)
    assert frozen.next.after_ns == 0
    assert frozen.next.charges == {1}

    again = _look(_START_NS + MS_NS, _START_NS)
    assert _acts(frozen.memory, again) == ()

    measured = _acts(frozen.memory, _look(_START_NS + MS_NS, _START_NS + MS_NS))
    assert [type(act) for act in measured] == [Terminate]


def test_a_job_that_vanished_while_frozen_is_forgotten() -> None:
    """Nothing to thaw, nothing to judge."""
    frozen = decide(GuardPolicy(), Memory(), _look(_START_NS, _START_NS))
    look = Look(_START_NS + MS_NS, HostSample(_START_NS + MS_NS, 24 * GIB, 22 * GIB))
    decision = decide(GuardPolicy(), frozen.memory, look)

    assert decision.acts == ()
    assert decision.memory.jobs == {}


def test_the_first_look_after_a_long_gap_begins_anew() -> None:
    """Nobody is frozen by it on a host that is well; the next look decides."""
    small = Look(
        _START_NS,
        HostSample(_START_NS, 24 * GIB, 20 * GIB),
        {1: JobSample(1, _START_NS, MIB, None, 1)},
        _RULES,
    )
    before = decide(GuardPolicy(), Memory(), small)
    late_ns = _START_NS + 60 * S_NS
    after = decide(GuardPolicy(), before.memory, _look(late_ns, late_ns))
    assert after.acts == ()
    assert after.next.after_ns <= 20 * MS_NS

    soon_ns = late_ns + after.next.after_ns
    assert _acts(after.memory, _look(soon_ns, soon_ns)) == (Freeze(1),)
