"""What a user may ask of a job that exists. To its shim first, to the index second.

Each request carries a key: asked again under it, nothing is done and the job is returned as
it now is.
"""

from __future__ import annotations

import asyncio
import signal as signals
from collections.abc import Callable, Sequence

from agentd.core import contract, lifecycle
from agentd.core.describe import describe, is_final
from agentd.core.job import OUTPUT_KINDS, Cause, Lost, Paused, Queued, Running, State
from agentd.errors import InvalidSpecError, WrongStateError
from agentd.server.runtime.board import Board
from agentd.server.runtime.endings import Endings
from agentd.server.runtime.events import Broadcast
from agentd.server.runtime.messages import proposed_end
from agentd.server.runtime.model import JobInfo
from agentd.server.runtime.store import Store
from agentd.server.runtime.validate import check_grace
from agentd.server.runtime.wardenlink import WardenLink
from agentd.system import clock

#: How long `pause` and `resume` wait for the shim to confirm.
CONFIRM_S = 5.0


class Requests:
    """Stop, signal, pause, resume. Belongs to one event loop."""

    def __init__(
        self, store: Store, board: Board, broadcast: Broadcast, endings: Endings, link: WardenLink
    ) -> None:
        """The link is where requests go."""
        self._store = store
        self._board = board
        self._broadcast = broadcast
        self._endings = endings
        self._link = link

    def perform(self, job_id: int, commands: Sequence[lifecycle.Command]) -> None:
        """Carry out the lifecycle's commands. Raises WardenGoneError."""
        for command in commands:
            match command:
                case lifecycle.AskLaunch():
                    self._link.send(self._launch_of(job_id))
                case lifecycle.AskStop():
                    self._link.send(contract.Stop(job_id, command.grace_s, command.cause))
                case lifecycle.AskSignal():
                    self._link.send(contract.SendSignal(job_id, command.signal_number))
                case lifecycle.AskPause():
                    self._link.send(contract.Pause(job_id))
                case lifecycle.AskResume():
                    self._link.send(contract.Resume(job_id))
                case lifecycle.WriteExit() | lifecycle.Retire():
                    # Ends go through `Endings`, never through `Board.advance`.
                    raise AssertionError(command)

    def _launch_of(self, job_id: int) -> contract.Launch:
        spec = self._board.get(job_id).spec
        return contract.Launch(
            job_id,
            OUTPUT_KINDS[type(spec.output)],
            mem_limit_bytes=spec.mem_limit_bytes or 0,
            mem_action=spec.mem_action,
            preemptible=spec.preemptible,
            grace_s=self._store.grace_s(job_id),
        )

    def _request(self, job_id: int, event: lifecycle.LifeEvent, verb: str, key: str) -> JobInfo:
        try:
            return self._board.advance(job_id, event, self.perform, key)
        except lifecycle.InvalidTransitionError as error:
            state = self._board.get(job_id).state
            raise WrongStateError(_refusal(job_id, state, verb)) from error

    async def stop(self, job_id: int, grace_s: float | None, key: str) -> JobInfo:
        """Have the whole tree stopped. See `Supervisor.stop`."""
        info = self._board.get(job_id)
        if self._store.find_done(key) is not None:
            return info
        grace_s = self._store.grace_s(job_id) if grace_s is None else grace_s
        check_grace(grace_s)
        if isinstance(info.state, Lost) and info.state.surviving_pids:
            self._link.send(contract.Sweep(job_id, grace_s))
            self._board.remember(key, job_id)
            return info
        event = lifecycle.StopRequested(clock.wall_ns(), grace_s, Cause.USER)
        if isinstance(info.state, Queued):
            self._endings.add(job_id, proposed_end(info.state, event))
            self._board.remember(key, job_id)
            return await self._wait_until(job_id, is_final)
        return self._request(job_id, event, "stopped", key)

    async def signal(self, job_id: int, signal_number: int, key: str) -> JobInfo:
        """Have a signal sent to the job. See `Supervisor.signal`."""
        if signal_number not in signals.valid_signals():
            raise InvalidSpecError(f"there is no signal {signal_number}")
        if self._store.find_done(key) is not None:
            return self._board.get(job_id)
        return self._request(job_id, lifecycle.SignalRequested(signal_number), "signalled", key)

    async def pause(self, job_id: int, key: str) -> JobInfo:
        """Have the whole tree paused. See `Supervisor.pause`."""
        if self._store.find_done(key) is None:
            self._request(job_id, lifecycle.PauseRequested(), "paused", key)
        return await self._wait_until(job_id, lambda state: not isinstance(state, Running))

    async def resume(self, job_id: int, key: str) -> JobInfo:
        """Let a paused job go on. See `Supervisor.resume`."""
        if self._store.find_done(key) is None:
            self._request(job_id, lifecycle.ResumeRequested(), "resumed", key)
        return await self._wait_until(job_id, lambda state: not isinstance(state, Paused))

    async def _wait_until(self, job_id: int, is_so: Callable[[State], bool]) -> JobInfo:
        try:
            async with asyncio.timeout(CONFIRM_S):
                while True:
                    change = self._broadcast.changed(job_id)
                    info = self._board.get(job_id)
                    if is_so(info.state):
                        return info
                    await change.wait()
        except TimeoutError:
            return self._board.get(job_id)


def _refusal(job_id: int, state: State, verb: str) -> str:
    if is_final(state):
        return f"job {job_id} is over: {describe(state)}"
    return f"job {job_id} is {describe(state)}; it cannot be {verb} now"
