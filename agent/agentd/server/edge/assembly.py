"""Puts the services, the interceptor and the listener together."""

from __future__ import annotations

import grpc

from agentapi.v1.agent_service_pb2_grpc import add_AgentServiceServicer_to_server
from agentapi.v1.forward_service_pb2_grpc import add_ForwardServiceServicer_to_server
from agentapi.v1.guard_service_pb2_grpc import add_GuardServiceServicer_to_server
from agentapi.v1.job_service_pb2_grpc import add_JobServiceServicer_to_server
from agentd.paths import Paths
from agentd.server.config import ConfigFile
from agentd.server.edge.agentservice import AgentService
from agentd.server.edge.forwardservice import ForwardService
from agentd.server.edge.guardservice import GuardService
from agentd.server.edge.interceptor import EdgeInterceptor, Gate
from agentd.server.edge.jobservice import JobService
from agentd.server.edge.listener import Listener
from agentd.server.runtime.logfollow import LogService
from agentd.server.runtime.ports import Ports
from agentd.server.runtime.supervisor import Supervisor


def make_listener(
    paths: Paths, supervisor: Supervisor, logs: LogService, config: ConfigFile, gate: Gate
) -> Listener:
    """Return what serves every RPC of the agent; nothing is published yet."""
    jobs = JobService(paths, supervisor, logs)
    agent = AgentService(paths, supervisor, config)
    guard = GuardService(supervisor, config)
    forward = ForwardService(Ports(paths, supervisor.get))

    def register(server: grpc.aio.Server) -> None:
        add_JobServiceServicer_to_server(jobs, server)
        add_AgentServiceServicer_to_server(agent, server)
        add_GuardServiceServicer_to_server(guard, server)
        add_ForwardServiceServicer_to_server(forward, server)

    return Listener(paths, EdgeInterceptor(gate), register)
