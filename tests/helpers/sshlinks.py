"""Links over the rig's sshd: what the tests of them share."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from agentapi.v1.agent_service_pb2 import GetAgentInfoRequest
from agentapi.v1.agent_service_pb2_grpc import AgentServiceStub
from agentctl.link.ssh import SshLink
from tests.helpers.hostlike import host_at
from tests.helpers.sshd import Rules
from tests.helpers.sshrig import SshRig, Variant
from tests.helpers.wait import wait_until

#: Connects, says where to, and stays until its stdin ends.
CLIENT = """
import os, sys
from agentctl.link.ssh import SshLink
from tests.helpers.hostlike import host_at
destination, agentd, *ssh = sys.argv[1:]
link = SshLink(host_at(destination, agentd), ssh)
print(link.connect(60), flush=True)
sys.stdin.read()
"""

#: A server that lets nobody forward sockets.
FORBIDDEN = Variant(rules=Rules(may_forward=False))


def link_of(rig: SshRig, **changes: str) -> SshLink:
    """Return a link of the client to the server, or to another destination or launcher."""
    host = host_at(changes.get("destination", rig.destination), changes.get("agentd", rig.agentd))
    return SshLink(host, rig.ssh_command, environ=rig.client.env)


@contextmanager
def proved_link(rig: SshRig) -> Iterator[SshLink]:
    """Yield a link that has not connected; its end is proved."""
    link = link_of(rig)
    yield link
    link.close()
    link.master.end()
    left = [name for name in names_left(rig) if not name.endswith(".lock")]
    assert left == []
    wait_until(lambda: not rig.ssh_pids(), what="no ssh left")


def names_left(rig: SshRig) -> list[str]:
    """Return what is in the client's runtime directory."""
    directory = f"{rig.client_runtime_dir}/agentctl"
    return os.listdir(directory) if os.path.isdir(directory) else []


def logins(rig: SshRig) -> int:
    """Return how often somebody has logged in at the server."""
    return rig.sshd.log.count("Accepted publickey")


def master_pid(link: SshLink) -> int:
    """Return the pid of the link's living master."""
    present = link.master.present()
    assert present is not None
    return present.pid


def timed_connect(link: SshLink, patience_s: float = 30) -> tuple[str, float]:
    """Return the path and the seconds that it took to get it."""
    began_s = time.monotonic()
    path = link.connect(patience_s)
    return path, time.monotonic() - began_s


def state_dir_behind(path: str) -> str:
    """Return the state directory of the agent behind the socket, by its own word."""
    options = (("grpc.default_authority", "localhost"), ("grpc.use_local_subchannel_pool", 1))
    with grpc.insecure_channel(f"unix:{path}", options=options) as channel:
        answer = AgentServiceStub(channel).GetAgentInfo(
            GetAgentInfoRequest(), timeout=10, metadata=(("agentctl-api-level", "1"),)
        )
    return answer.state_dir
