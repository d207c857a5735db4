"""Hogs let loose on the test machine, and what "it survived" means."""

from __future__ import annotations

from collections.abc import Sequence

from tests.helpers.vm.machine import HogPlan, Plan, Report

#: Above this a person at the terminal would call the machine frozen.
LONGEST_GAP_S = 10.0
#: A job may be paused first; it must not take the whole afternoon to decide.
_CONFIG = '[guard]\nenabled = true\npause_limit = "2s"\n'
_LIMIT = "300M"


#: Mode and threads of each.
KINDS = {"single": ("anon", 1), "threads": ("anon", 8), "bomb": ("bomb", 1)}


def hogs(limited: bool, kinds: Sequence[str]) -> tuple[HogPlan, ...]:  # noqa: FBT001  # the one thing that differs
    """Return one hog of each kind, with a limit of its own or against the host's marks alone."""
    mem = _LIMIT if limited else None
    return tuple(
        HogPlan(
            f"{name}{' over its limit' if limited else ''}",
            mode,
            options=_options(mode, n),
            mem=mem,
        )
        for name, (mode, n) in ((kind, KINDS[kind]) for kind in kinds)
    )


def _options(mode: str, threads: int) -> dict[str, int]:
    return {"processes": 50} if mode == "bomb" else {"threads": threads}


def guarded(runs: int, *, has_manager: bool, kinds: Sequence[str] = tuple(KINDS)) -> Plan:
    """Return a plan of `runs` runs of each kind, every second one against its own limit."""
    several = tuple(hog for run in range(runs) for hog in hogs(run % 2 == 1, kinds))
    return Plan("guard", has_manager, hogs=several, config=_CONFIG)


def unguarded(protector: str, runs: int) -> Plan:
    """Return the same with another program for a guard, or with none."""
    several = tuple(hog for _ in range(runs) for hog in hogs(False, tuple(KINDS)))
    return Plan(protector, has_manager=True, hogs=several)


def harm(run: Report) -> list[str]:
    """Return what went wrong for everyone but the hog: empty if nothing did."""
    facts = {
        f"kernel OOM kills outside a job's cgroup: {run['kills_outside']}": run["kills_outside"],
        f"a gap of {run['longest_gap_s']:.1f} s": run["longest_gap_s"] > LONGEST_GAP_S,
        "sshd is another or does not answer": not run["same_sshd"],
        "the agent is another": not run["same_agent"],
        "a bystander died": not run["bystander_lives"],
    }
    return [f"{run['hog']}: {fact}" for fact, is_so in facts.items() if is_so]


def unexplained(run: Report) -> list[str]:
    """Return what `agentctl show` does not say of a job that the guard has ended."""
    job = run["job"]
    facts = {
        f"state {job['state']}": job["state"] != "ended",
        f"cause {job.get('cause')}": job.get("cause") != "guard",
        f"reason {job.get('reason')!r}": not _is_reason(run, job.get("reason") or ""),
    }
    return [f"{run['hog']}: {fact}" for fact, is_so in facts.items() if is_so]


def _is_reason(run: Report, reason: str) -> bool:
    """Say whether a reason names who ended the job: the kernel only where it did, in its cgroup."""
    by_kernel = "stopped by the kernel: over its limit"
    return " by the guard: " in reason or (
        bool(run["kills_in_job"]) and reason.startswith(by_kernel)
    )


def all_wrong(runs: Sequence[Report]) -> list[str]:
    """Return all that is wrong in runs of a guarded machine."""
    return [line for run in runs for line in (*harm(run), *unexplained(run))]
