"""The guard's policy: what is remembered and what is seen in, what is to be done out. Pure.

The caller calls `decide` with every look, does the acts at once and in order, and looks again
when and at what `Decision.next` says. A job that is no longer in `Look.rules` has ended.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from agentd.core.guard.dryrun import as_told
from agentd.core.guard.host import guard_host
from agentd.core.guard.model import Act, GuardPolicy, Look, NextLook
from agentd.core.guard.observe import observe
from agentd.core.guard.own_limit import judge_own_limits
from agentd.core.guard.pace import calm_look, next_look
from agentd.core.guard.release import let_all_go, look_after_held, without_doings
from agentd.core.guard.state import Memory
from agentd.core.guard.turn import Turn

__all__ = ["Decision", "Memory", "decide"]


@dataclass(frozen=True, slots=True)
class Decision:
    """What the policy answers to one look."""

    memory: Memory
    acts: tuple[Act, ...]
    next: NextLook


def decide(policy: GuardPolicy, memory: Memory, look: Look) -> Decision:
    """Return what is to be done after a look, and when to look again."""
    if not policy.enabled:
        turn = let_all_go(_only_observed(policy, memory, look))
        return _decision(turn, calm_look(turn))
    if policy.dry_run:
        turn = let_all_go(_only_observed(policy, memory, look))
        told = as_told(turn, _judged(turn))
        return _decision(told, next_look(told))
    turn = _judged(observe(policy, memory, look))
    return _decision(turn, next_look(turn))


def _judged(turn: Turn) -> Turn:
    return look_after_held(guard_host(judge_own_limits(turn)))


def _only_observed(policy: GuardPolicy, memory: Memory, look: Look) -> Turn:
    turn = observe(policy, memory, look)
    # What was begun before ends by itself, and nobody waits for it.
    return replace(turn, acts=())


def _decision(turn: Turn, plan: NextLook) -> Decision:
    memory = replace(turn.memory, planned=plan)
    if not turn.policy.enabled or turn.policy.dry_run:
        memory = without_doings(memory)
    return Decision(memory, turn.acts, plan)
