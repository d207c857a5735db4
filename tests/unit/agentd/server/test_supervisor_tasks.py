"""What a supervisor does when a part of it dies."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.unit.agentd.server.places import make_paths
from tests.unit.agentd.server.test_requeue import AGAIN, BY_GUARD, WELL
from tests.unit.agentd.server.wardenpeer import DEADLINE_S, bench


def test_an_error_in_a_requeue_ends_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one goes on with what is owed; without an end nobody would ever see that it died."""
    monkeypatch.setattr("agentd.server.runtime.requeue.FIRST_BACKOFF_S", 0.01)

    def broken(directory: str) -> None:
        raise RuntimeError(f"cannot read {directory}")

    monkeypatch.setattr("agentd.server.runtime.requeuefile.read", broken)

    async def scenario() -> None:
        async with bench(make_paths(tmp_path)) as at:
            await at.supervisor.submit(AGAIN)
            async with at.guarding(WELL):
                at.end(1, BY_GUARD)
                with pytest.raises(RuntimeError, match="cannot read"):
                    async with asyncio.timeout(DEADLINE_S):
                        await at.running

    asyncio.run(scenario())
