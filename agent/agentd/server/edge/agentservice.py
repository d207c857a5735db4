"""AgentService of the wire: the agent itself."""

# ruff: noqa: N802  # the methods are named as in the protos

from __future__ import annotations

import os
import socket
from typing import Any, TypeAlias

from grpc.aio import ServicerContext

from agentapi.v1 import agent_service_pb2 as pb
from agentapi.v1.agent_service_pb2_grpc import AgentServiceServicer
from agentd import __version__
from agentd.core.wire import API_LEVEL
from agentd.paths import Paths
from agentd.server.config import ConfigFile
from agentd.server.edge.convert import timestamp
from agentd.server.edge.errors import wire_text
from agentd.server.runtime.supervisor import Supervisor

_Context: TypeAlias = "ServicerContext[Any, Any]"


class AgentService(AgentServiceServicer):
    """What the agent says about itself, and its end."""

    def __init__(self, paths: Paths, supervisor: Supervisor, config: ConfigFile) -> None:
        """Serves any number of server objects."""
        self._paths = paths
        self._supervisor = supervisor
        self._config = config

    async def GetAgentInfo(
        self, _request: pb.GetAgentInfoRequest, _context: _Context
    ) -> pb.GetAgentInfoResponse:
        """Return versions, places and counts."""
        active, total = self._supervisor.counts()
        return pb.GetAgentInfoResponse(
            version=__version__,
            api_level=API_LEVEL,
            warden_pid=self._supervisor.warden_pid,
            server_pid=os.getpid(),
            socket=wire_text(self._paths.socket),
            state_dir=wire_text(self._paths.state_dir),
            started_at=timestamp(self._supervisor.started_at_ns),
            hostname=wire_text(socket.gethostname()),
            active_jobs=active,
            total_jobs=total,
            config_error=wire_text(self._config.complaint),
        )

    async def StopAgent(
        self, _request: pb.StopAgentRequest, _context: _Context
    ) -> pb.StopAgentResponse:
        """Ask the warden to end the agent; the jobs go on."""
        self._supervisor.shut_agent_down()
        return pb.StopAgentResponse()
