"""The agent's socket: how it is published and that it comes back."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
import pytest
from structlog.testing import capture_logs

from agentapi.v1 import agent_service_pb2 as pb
from agentapi.v1.agent_service_pb2_grpc import (
    AgentServiceServicer,
    AgentServiceStub,
    add_AgentServiceServicer_to_server,
)
from agentd.errors import UnsafeDirectoryError
from agentd.paths import Paths
from agentd.server.edge.interceptor import EdgeInterceptor, Gate
from agentd.server.edge.listener import Listener
from agentd.server.runtime.filewatch import FileWatches
from tests.helpers.wait import wait_until

if TYPE_CHECKING:
    # Only the stubs know of it: at run time one class serves both kinds of channel.
    from agentapi.v1.agent_service_pb2_grpc import AgentServiceAsyncStub


def stub_of(channel: grpc.aio.Channel) -> AgentServiceAsyncStub:
    """Return the client's side of the service."""
    return AgentServiceStub(channel)  # type: ignore[return-value]  # see above


class Servicer(AgentServiceServicer):
    """Answers with how many calls there were; StopAgent waits for the test."""

    def __init__(self) -> None:
        self.calls = 0
        self.waiting = asyncio.Event()
        self.go_on = asyncio.Event()

    async def GetAgentInfo(  # noqa: N802  # as in the protos
        self, request: pb.GetAgentInfoRequest, context: object
    ) -> pb.GetAgentInfoResponse:
        """Count."""
        self.calls += 1
        return pb.GetAgentInfoResponse(api_level=self.calls)

    async def StopAgent(  # noqa: N802  # as in the protos
        self, request: pb.StopAgentRequest, context: object
    ) -> pb.StopAgentResponse:
        """Take as long as the test wants."""
        self.waiting.set()
        await self.go_on.wait()
        return pb.StopAgentResponse()


@dataclass
class Published:
    """A listener that was published, and what is behind it."""

    paths: Paths
    listener: Listener
    servicer: Servicer
    watches: FileWatches

    async def ask(self) -> int:
        """Make one call over a connection of its own."""
        async with grpc.aio.insecure_channel(f"unix:{self.paths.socket}") as channel:
            answer = await stub_of(channel).GetAgentInfo(pb.GetAgentInfoRequest(), timeout=5)
            return int(answer.api_level)

    async def back(self) -> None:
        """Return once the socket is there and answers."""
        await asyncio.to_thread(wait_until, lambda: answers(self.paths.socket), deadline_s=5)
        await self.ask()


def answers(path: str) -> bool:
    """Say whether somebody accepts connections at `path`."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
        return True


@contextmanager
def short_directory() -> Iterator[str]:
    """Yield a private directory with a path short enough for sockets, and remove it."""
    directory = tempfile.mkdtemp(prefix="at-", dir="/tmp")
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        assert not os.path.exists(directory)


@asynccontextmanager
async def published(*, watched: bool = True) -> AsyncIterator[Published]:
    """Yield a published listener; its end proves that the socket is gone."""
    with short_directory() as root:
        paths = Paths(root, f"{root}/run", f"{root}/config.toml")
        servicer = Servicer()

        def register(server: grpc.aio.Server) -> None:
            add_AgentServiceServicer_to_server(servicer, server)

        listener = Listener(paths, EdgeInterceptor(Gate()), register)
        watches = FileWatches()
        await listener.publish()
        if watched:
            listener.watch(watches)
        yield Published(paths, listener, servicer, watches)
        was_ours = listener._is_published()
        watches.close()
        await listener.stop(0)
        assert not (was_ours and answers(paths.socket))


def scenario(act: Callable[[Published], object], *, watched: bool = True) -> None:
    """Run `act` on a published listener."""

    async def run() -> None:
        async with published(watched=watched) as at:
            result = act(at)
            if asyncio.iscoroutine(result):
                await result

    asyncio.run(run())


def test_the_socket_is_private_and_answers() -> None:
    """Mode 0600 in a directory of mode 0700, under its own name only."""

    async def act(at: Published) -> None:
        status = os.lstat(at.paths.socket)
        assert stat.S_ISSOCK(status.st_mode)
        assert stat.S_IMODE(status.st_mode) == 0o600
        assert stat.S_IMODE(os.lstat(at.paths.runtime_dir).st_mode) == 0o700
        assert os.listdir(at.paths.runtime_dir) == ["agent.sock"]
        assert await at.ask() == 1

    scenario(act)


def replace_by_fifo(paths: Paths) -> None:
    """Put something else in the socket's place."""
    os.unlink(paths.socket)
    os.mkfifo(paths.socket)


@pytest.mark.parametrize(
    "harm",
    [
        lambda paths: os.unlink(paths.socket),
        lambda paths: shutil.rmtree(paths.runtime_dir),
        lambda paths: os.rename(paths.socket, f"{paths.runtime_dir}/away"),
        replace_by_fifo,
    ],
    ids=["removed", "directory removed", "moved away", "replaced"],
)
def test_a_socket_that_was_taken_away_comes_back_by_itself(
    harm: Callable[[Paths], object],
) -> None:
    """As after a cleaner of /tmp; twice, so that the new one is watched too."""

    async def act(at: Published) -> None:
        for _ in range(2):
            harm(at.paths)
            await at.back()
            assert stat.S_IMODE(os.lstat(at.paths.socket).st_mode) == 0o600

    scenario(act)


def test_without_a_watch_a_look_brings_it_back() -> None:
    """The slow look of who owns the listener."""

    async def act(at: Published) -> None:
        os.unlink(at.paths.socket)
        await at.listener.look()
        assert await at.ask() == 1

    scenario(act, watched=False)


def test_a_call_under_way_survives_the_loss_of_the_socket() -> None:
    """The old server object goes on with what it has."""

    async def act(at: Published) -> None:
        async with grpc.aio.insecure_channel(f"unix:{at.paths.socket}") as channel:
            call = stub_of(channel).StopAgent(pb.StopAgentRequest())
            await at.servicer.waiting.wait()
            os.unlink(at.paths.socket)
            await at.back()
            at.servicer.go_on.set()
            async with asyncio.timeout(5):
                assert await call == pb.StopAgentResponse()

    scenario(act)


def test_a_socket_that_another_agent_serves_is_left_alone() -> None:
    """Two agents must not take it from each other in turns; it is said once."""

    async def act(at: Published) -> None:
        os.unlink(at.paths.socket)
        with socket.socket(socket.AF_UNIX) as other, capture_logs() as lines:
            other.bind(at.paths.socket)
            other.listen()
            await at.listener.look()
            await at.listener.look()
            assert [line["event"] for line in lines] == ["socket.lost"]
            assert not at.listener._is_published()
        await at.listener.look()
        assert await at.ask() == 1

    scenario(act, watched=False)


def test_the_end_of_an_old_server_does_not_remove_a_new_ones_socket() -> None:
    """What gRPC unlinks is the name it was given, which by then is nobody's."""

    async def act(at: Published) -> None:
        def register(server: grpc.aio.Server) -> None:
            add_AgentServiceServicer_to_server(at.servicer, server)

        successor = Listener(at.paths, EdgeInterceptor(Gate()), register)
        successor._count = 7
        await successor.publish()
        await at.listener.stop(0)
        assert await at.ask() == 1
        await successor.stop(0)

    scenario(act, watched=False)


def test_what_dead_servers_left_is_removed() -> None:
    """A server killed between bind and rename leaves a name behind; a living one keeps its."""

    async def act(at: Published) -> None:
        dead, living = (f"{at.paths.runtime_dir}/grpc-{pid}-0.sock" for pid in (1, 2))
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(dead)
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(living)
            end.listen()
            os.unlink(at.paths.socket)
            await at.listener.look()
            assert sorted(os.listdir(at.paths.runtime_dir)) == ["agent.sock", "grpc-2-0.sock"]

    scenario(act, watched=False)


def test_a_runtime_directory_open_to_others_is_refused() -> None:
    """What anybody may write to is no place for the socket."""

    async def act(at: Published) -> None:
        os.unlink(at.paths.socket)
        os.chmod(at.paths.runtime_dir, 0o755)  # noqa: S103  # the fact under test
        with pytest.raises(UnsafeDirectoryError, match="chmod 700"):
            await at.listener.publish()
        with capture_logs() as lines:
            await at.listener.look()
        assert [line["event"] for line in lines] == ["socket.lost"]
        os.chmod(at.paths.runtime_dir, 0o700)

    scenario(act, watched=False)


def test_a_path_too_long_for_a_socket_is_refused_by_name() -> None:
    """With what to do about it."""

    async def act() -> None:
        with short_directory() as root:
            paths = Paths(root, f"{root}/{'x' * 80}", f"{root}/config.toml")
            listener = Listener(paths, EdgeInterceptor(Gate()), lambda _server: None)
            with pytest.raises(UnsafeDirectoryError, match="AGENTD_RUNTIME_DIR"):
                await listener.publish()

    asyncio.run(act())
