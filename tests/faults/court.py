"""Runs witnesses as a user would, by `agentctl` and its SDK, and judges what is told of them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agentctl import Client, WrongStateError
from tests.helpers import books
from tests.helpers.agent import Agent
from tests.helpers.books import Truth
from tests.helpers.wait import wait_until
from tests.helpers.witness import Way, Witness

#: Small enough that a witness' output rotates several times.
_CONFIG = '[logs]\nsegment = "16KiB"\n'
_OVER = frozenset({"ended", "lost", "start_failed"})
_LOOK_EVERY_S = 0.1


class Court:
    """One agent and the witnesses that ran in it."""

    def __init__(self, agent: Agent, make: Callable[[Way], Witness]) -> None:
        """Make witnesses with `make`; the agent is started by the first command."""
        self.agent = agent
        #: Make a witness that is not submitted yet.
        self.make = make
        self._heard: dict[int, Witness] = {}
        #: Jobs that may be lost, and with them the rest of their output.
        self.excused: set[int] = set()
        self._client: Client | None = None
        Path(agent.config_file).write_text(_CONFIG, encoding="utf-8")

    @property
    def client(self) -> Client:
        """The one client that asks all along; it heals its connection, or starts the agent."""
        if self._client is None:
            self._client = self.agent.client()
        return self._client

    def close(self) -> None:
        """Let go of the connection."""
        if self._client is not None:
            self._client.close()

    def submit(self, way: Way) -> int:
        """Submit a witness and return its job's id."""
        return self.submit_made(self.make(way))

    def submit_made(self, witness: Witness) -> int:
        """Submit one that was made before."""
        job_id = int(self.agent.cli("submit", "--", *witness.argv, check=True).stdout)
        self.take(job_id, witness)
        return job_id

    def take(self, job_id: int, witness: Witness) -> None:
        """Take in a witness that was submitted in another way."""
        self._heard[job_id] = witness

    def witness(self, job_id: int) -> Witness:
        """Return the witness that runs as this job."""
        return self._heard[job_id]

    def state(self, job_id: int) -> str:
        """Ask the agent, starting it again if there is none."""
        return str(self.client.get(job_id).state)

    def wait_runs(self, job_id: int) -> None:
        """Wait until its program has begun, or the job is over already."""
        self._wait_for(job_id, self._heard[job_id].runs, "its program runs")

    def _wait_for(self, job_id: int, seen: Callable[[], object], what: str) -> None:
        # Only who asks starts an agent that was killed.
        next_look_s = time.monotonic() + _LOOK_EVERY_S

        def seen_or_over() -> bool:
            nonlocal next_look_s
            if seen():
                return True
            if time.monotonic() < next_look_s:
                return False
            next_look_s = time.monotonic() + _LOOK_EVERY_S
            return self.state(job_id) in _OVER

        wait_until(seen_or_over, deadline_s=15, what=what)

    def bring_to_end(self, job_id: int) -> None:
        """Let it end in its way, and wait until the agent says that it is over."""
        witness = self._heard[job_id]
        if witness.way is Way.STOPPED:
            self._wait_for(job_id, witness.is_ready, "it can be stopped")
            self._stop(job_id)
        else:
            witness.let_go()
        self.client.wait(job_id, 15)

    def _stop(self, job_id: int) -> None:
        try:
            self.client.stop(job_id)
        except WrongStateError:
            # Lost meanwhile, which the books will judge.
            return

    def run(self, way: Way) -> int:
        """Have a witness run from its submit to its end."""
        job_id = self.submit(way)
        self.wait_runs(job_id)
        self.bring_to_end(job_id)
        return job_id

    def judge(self) -> None:
        """Demand the whole truth about every witness, and that nothing is left of any.

        Raises:
            AssertionError: Something was told wrong, lost, done twice, or left behind.

        """
        jobs = books.check_all_over(self.agent)
        for job_id, witness in self._heard.items():
            printed = b"".join(self.client.logs(job_id))
            self._judge(jobs[job_id], witness, printed, excused=job_id in self.excused)
        # What kills itself is not killed by a test.
        assert "Traceback" not in self.agent.log()

    @staticmethod
    def _judge(job: dict[str, Any], witness: Witness, printed: bytes, *, excused: bool) -> None:
        way = witness.way
        truth = Truth(way.exit_code, way.signal, way.cause)
        told = books.told_truth(job, truth, may_be_lost=excused)
        assert told, f"it {way.name.lower()}: {json.dumps(job)}"
        assert witness.runs() == 1 or (excused and not witness.runs()), "it ran once"
        whole = witness.output[: len(printed)] if excused else witness.output
        assert printed == whole, f"{len(printed)} bytes of {len(witness.output)} are told"
