"""A hundred jobs under two hundred random SIGKILLs; then the books.

The seed is printed; AGENT_TEST_SEED=… runs the same jobs and chooses in the same order.
"""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from agentctl import Client, JobState
from tests.faults import victims
from tests.faults.mixture import Member, mixture
from tests.faults.victims import Kind, Victim
from tests.helpers import books
from tests.helpers.agent import Agent
from tests.helpers.wait import dawdle, is_alive, wait_until

_JOBS = 100
_KILLS = 200
_WEIGHTS = {Kind.SHIM: 68, Kind.SERVER: 14, Kind.SPAWNER: 10, Kind.WARDEN: 8}
#: On average.
_PAUSE_S = 0.08
_LOOK_EVERY_S = 0.2
#: Jobs are submitted this many kills before their share of all kills is due.
_IN_ADVANCE = 20


@dataclass(slots=True)
class Killer:
    """Kills at random and keeps account of what a job may suffer from it."""

    agent: Agent
    chance: random.Random
    done: Counter[Kind] = field(default_factory=Counter)
    #: Jobs whose leader had neither its shim nor its warden any more.
    excused: set[int] = field(default_factory=set)
    #: Jobs whose shim was killed under a living warden, the leader's parent from then on.
    _inherited: set[int] = field(default_factory=set)

    def kill_one(self) -> None:
        """Kill one process, of another kind if there is none of the chosen."""
        kinds = self.chance.choices(list(_WEIGHTS), list(_WEIGHTS.values()), k=8)
        for kind in kinds:
            found = victims.find(self.agent, kind)
            if found and self._kill(self.chance.choice(found)):
                return

    def _kill(self, victim: Victim) -> bool:
        try:
            os.kill(victim.pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        # A killed process ends in its own time; counted is only what is seen dead.
        wait_until(lambda: not is_alive(victim.pid), what=f"{victim} is dead")
        self.done[victim.kind] += 1
        if victim.kind is Kind.WARDEN:
            self.excused |= self._inherited
            self._inherited.clear()
        elif victim.kind is Kind.SHIM:
            (self._inherited if victim.has_warden else self.excused).add(victim.job_id)
        return True

    def kill_all(self) -> None:
        """Kill until it is enough."""
        while self.done.total() < _KILLS:
            self.kill_one()
            dawdle(self.chance.uniform(0, 2 * _PAUSE_S))


def _submit_all(
    client: Client, part: list[tuple[int, Member]], killer: Killer
) -> dict[int, Member]:
    """Submit jobs all along the campaign, so that there are some to be hit at any time."""
    ran = {}
    for number, member in part:
        due = _KILLS * number // _JOBS - _IN_ADVANCE
        wait_until(lambda: killer.done.total() >= due, deadline_s=60, what=f"{due} kills")  # noqa: B023  # called at once
        ran[client.submit(member.argv, grace=0.2).id] = member
    return ran


def _look_often(client: Client, killer: Killer) -> None:
    """Be the user whose next command starts an agent that was killed."""
    while killer.done.total() < _KILLS:
        client.list(recent=1)
        dawdle(_LOOK_EVERY_S)


def test_two_hundred_kills_over_a_hundred_jobs(agent: Agent) -> None:
    """Every status exact, every log whole, nothing left, nothing twice."""
    seed = int(os.environ.get("AGENT_TEST_SEED") or random.SystemRandom().randrange(2**32))
    print(f"AGENT_TEST_SEED={seed}")  # noqa: T201  # to run it again
    chance = random.Random(seed)
    members = list(enumerate(mixture(agent.root, _JOBS, chance)))
    Path(agent.config_file).write_text('[logs]\nsegment = "64KiB"\n', encoding="utf-8")
    agent.start()
    killer = Killer(agent, chance)
    with agent.client() as client, ThreadPoolExecutor() as pool:
        submits = [pool.submit(_submit_all, client, members[n::4], killer) for n in range(4)]
        looks = pool.submit(_look_often, client, killer)
        killer.kill_all()
        looks.result()
        ran = {job_id: member for done in submits for job_id, member in done.result().items()}
        assert len(ran) == _JOBS
        lost = {job_id for job_id in ran if client.wait(job_id, 30).state is JobState.LOST}
        print(f"killed: {dict(killer.done)}; lost: {lost}")  # noqa: T201  # for the reader of a failure
        for job_id in lost:
            # What a lost job left behind stays visible, and goes when it is told to.
            if client.get(job_id).surviving_pids:
                client.stop(job_id)
        jobs = books.check_all_over(agent)
        assert jobs.keys() == ran.keys()
        for job_id, member in ran.items():
            job, excused = jobs[job_id], job_id in killer.excused
            assert books.told_truth(job, member.truth, may_be_lost=excused), f"{member}: {job}"
            assert member.runs() == 1 or (job_id in lost and not member.runs()), f"{member}"
            printed = b"".join(client.logs(job_id))
            # What stood in the pipe goes with the last process that holds it.
            whole = member.output[: len(printed)] if excused else member.output
            assert printed == whole, f"{member}: {len(printed)} bytes of {len(member.output)}"
    assert "Traceback" not in agent.log()
