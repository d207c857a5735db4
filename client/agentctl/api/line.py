"""One channel to the socket of an agent: its options, and how it is opened."""

from __future__ import annotations

import os
from typing import NamedTuple

import grpc

from agentapi.v1.job_service_pb2_grpc import JobServiceStub
from agentctl.errors import WrongAgentError

Metadata = tuple[tuple[str, str], ...]

#: Whoever asks once has another way if there is no answer.
ONCE_TIMEOUT_S = 10.0
#: A host that was lost and does not answer so soon is lost still.
_PROOF_WITHIN_S = 5.0
_MAX_MESSAGE_BYTES = 16 << 20

#: Of every channel.
OPTIONS = (
    ("grpc.default_authority", "localhost"),
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    # Keepalive alone needs a minute to notice a frozen peer: its answer has a time-out of its own.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
    # A new channel must not share the broken connection of the old one.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
)
#: Of one to another host as well: a frozen link is found out in 6 s, and a connect may take
#: several times around the world.
REMOTE_OPTIONS = (
    ("grpc.keepalive_time_ms", 3_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.ping_timeout_ms", 3_000),
    ("grpc.min_reconnect_backoff_ms", 5_000),
)


class Line(NamedTuple):
    """One channel, its stub, which takes 0.2 ms to make, and the socket it leads through."""

    channel: grpc.Channel
    jobs: JobServiceStub
    path: str


def open_channel(path: str, *, is_remote: bool) -> grpc.Channel:
    """Return a channel to the agent behind the socket `path`. Connects at its first call."""
    options = tuple((dict(OPTIONS) | dict(REMOTE_OPTIONS)).items()) if is_remote else OPTIONS
    return grpc.insecure_channel(f"unix:{_quoted(path)}", options=options)


def _quoted(path: str) -> str:
    """Return the path as a part of a URI, where percent and space mean something."""
    if path.isascii() and path.replace("/", "").replace("-", "").replace(".", "").isalnum():
        return path
    import urllib.parse

    return urllib.parse.quote(path)


def refuse_another(
    channel: grpc.Channel, path: str, state_dir: str | None, metadata: Metadata
) -> None:
    """Raise grpc.RpcError unless an agent answers, WrongAgentError unless it minds `state_dir`."""
    from agentapi.v1.agent_service_pb2 import GetAgentInfoRequest
    from agentapi.v1.agent_service_pb2_grpc import AgentServiceStub

    info = AgentServiceStub(channel).GetAgentInfo(
        GetAgentInfoRequest(),
        timeout=_PROOF_WITHIN_S if state_dir is None else ONCE_TIMEOUT_S,
        metadata=metadata,
    )
    if state_dir is None:
        return
    if os.path.realpath(info.state_dir) != os.path.realpath(state_dir):
        raise WrongAgentError(
            f"the agent at {path} belongs to the state directory {info.state_dir}, "
            f"not to {state_dir}; set AGENTD_RUNTIME_DIR too"
        )
