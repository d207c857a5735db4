"""Clients that submit under a key of the test's choice, in processes that may be killed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.helpers.agent import Agent

#: Submits under the key that is its first argument and prints the id.
_HEARING = """
import sys
import agentctl.api.client as sdk

key, *argv = sys.argv[1:]
sdk._new_key = lambda: key
with sdk.Client() as client:
    print(client.submit(argv).id)
"""
#: Submits the same way, once, and never looks at the answer.
_DEAF = """
import sys, time
import grpc
from agentapi.v1 import job_service_pb2 as wire
from agentapi.v1.job_service_pb2_grpc import JobServiceStub
from agentctl.api.draft import Draft, to_wire
from agentctl.link import open_link

key, *argv = sys.argv[1:]
channel = grpc.insecure_channel("unix:" + open_link(None, start_agent=True).connect(15))
request = wire.SubmitJobRequest(idempotency_key=key, spec=to_wire(Draft(argv)))
call = JobServiceStub(channel).SubmitJob.future(request, wait_for_ready=True)
time.sleep(60)
"""


def client_with_key(agent: Agent, key: str, argv: tuple[str, ...]) -> subprocess.Popen[str]:
    """Start a client that submits under `key`; `answer` takes its end."""
    return _start(agent, _HEARING, key, argv)


@contextmanager
def deaf_client(agent: Agent, key: str, argv: tuple[str, ...]) -> Iterator[subprocess.Popen[str]]:
    """Run a client that submits under `key` once and then sleeps; the end of the block kills it."""
    client = _start(agent, _DEAF, key, argv)
    try:
        yield client
    finally:
        client.kill()
        client.communicate()


def _start(agent: Agent, program: str, key: str, argv: tuple[str, ...]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, key, *argv],
        env=agent.env,
        cwd=agent.home,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )


def answer(client: subprocess.Popen[str]) -> int:
    """Return the job id that a client was told, once it has ended."""
    said, _ = client.communicate(timeout=30)
    return int(said)
