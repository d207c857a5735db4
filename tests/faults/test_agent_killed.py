"""kill -9 of the agent, of clients, of a login session, while jobs run."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import threading
from pathlib import Path

from tests.faults.court import Court
from tests.helpers.agent import Agent
from tests.helpers.processes import session_members
from tests.helpers.wait import wait_gone, wait_until
from tests.helpers.witness import Way

#: Submits under the key that is its first argument; a deaf one never reads the answer.
_SUBMIT = """
import sys, time
import agentctl.api.client as sdk
from agentctl.api.draft import Draft, to_wire

key, how, *argv = sys.argv[1:]
if how == "deaf":
    import grpc
    from agentapi.v1 import job_service_pb2 as wire
    from agentapi.v1.job_service_pb2_grpc import JobServiceStub
    from agentctl.link import open_link

    channel = grpc.insecure_channel("unix:" + open_link(None, start_agent=True).connect(15))
    request = wire.SubmitJobRequest(idempotency_key=key, spec=to_wire(Draft(argv)))
    call = JobServiceStub(channel).SubmitJob.future(request)
    time.sleep(60)
sdk._new_key = lambda: key
with sdk.Client() as client:
    print(client.submit(argv).id)
"""


def _submit(agent: Agent, key: str, how: str, argv: tuple[str, ...]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _SUBMIT, key, how, *argv],
        env=agent.env,
        stdout=subprocess.PIPE,
        text=True,
    )


def _answer(client: subprocess.Popen[str]) -> int:
    said, _ = client.communicate(timeout=30)
    return int(said)


def test_twenty_jobs_outlive_the_agent(court: Court) -> None:
    """Warden and server at one blow; the next `ls` shows all twenty, and their ends are exact."""
    ways = [Way.EXITS, Way.DIES, Way.STOPPED, Way.EXITS] * 5
    jobs = [court.submit(way) for way in ways]
    for job_id in jobs:
        wait_until(court.witness(job_id).runs, what=f"job {job_id} runs")
    court.agent.kill(court.agent.warden_pid(), court.agent.server_pid())

    seen = json.loads(court.agent.cli("ls", "--json", check=True).stdout)

    assert {job["id"]: job["state"] for job in seen} == dict.fromkeys(jobs, "running")
    for job_id in jobs:
        if court.witness(job_id).way is not Way.STOPPED:
            court.witness(job_id).let_go()
    stopped = [str(i) for i in jobs if court.witness(i).way is Way.STOPPED]
    court.agent.cli("stop", *stopped, check=True)
    court.agent.cli("wait", "--timeout", "15s", *map(str, jobs))
    court.judge()


def test_jobs_end_while_no_agent_runs(court: Court) -> None:
    """Shims need nobody to write an end down; the next agent reads it."""
    jobs = [court.submit(way) for way in (Way.EXITS, Way.DIES)]
    for job_id in jobs:
        wait_until(court.witness(job_id).runs, what=f"job {job_id} runs")
    shims = {court.agent.shim_pid(job_id) for job_id in jobs}
    court.agent.kill(court.agent.warden_pid(), court.agent.server_pid())

    for job_id in jobs:
        court.witness(job_id).let_go()
    wait_gone(shims, what="both shims have ended")

    court.judge()


def test_a_client_killed_after_the_server_took_it(court: Court) -> None:
    """The job runs once, and the same key finds it."""
    agent = court.agent
    agent.start()
    witness = court.make(Way.EXITS)
    deaf = _submit(agent, "one", "deaf", witness.argv)
    wait_until(lambda: os.path.exists(f"{agent.state_dir}/live/1"), what="the server took it")
    deaf.kill()
    deaf.communicate()

    again = _answer(_submit(agent, "one", "hear", witness.argv))

    assert again == 1
    court.take(again, witness)
    court.bring_to_end(again)
    court.judge()


def test_a_client_killed_before_the_server_took_it(court: Court) -> None:
    """No job, until somebody asks again."""
    agent = court.agent
    agent.start()
    witness = court.make(Way.EXITS)
    agent.crash_at("server.submit.begin")
    deaf = _submit(agent, "one", "deaf", witness.argv)
    wait_until(lambda: agent.crashed("server.submit.begin"), what="the server died")
    deaf.kill()
    deaf.communicate()
    assert agent.cli("ls", "--all", "--json", check=True).stdout == "[]\n"

    court.take(_answer(_submit(agent, "one", "hear", witness.argv)), witness)

    court.bring_to_end(1)
    court.judge()


def test_client_and_server_killed_together(court: Court) -> None:
    """After the launch, before the answer: the key is found in what is on disk."""
    agent = court.agent
    agent.start()
    witness = court.make(Way.EXITS)
    deaf = _submit(agent, "one", "deaf", witness.argv)
    agent.crash_at("server.submit.launched", deaf.pid)
    deaf.communicate(timeout=30)

    court.take(_answer(_submit(agent, "one", "hear", witness.argv)), witness)

    court.bring_to_end(1)
    court.judge()


def test_one_key_from_many_clients_is_one_job(court: Court) -> None:
    """Four at once, and the server killed under them."""
    agent = court.agent
    agent.start()
    witness = court.make(Way.EXITS)
    agent.crash_at("server.submit.indexed")
    clients = [_submit(agent, "one", "hear", witness.argv) for _ in range(4)]

    assert [_answer(client) for client in clients] == [1, 1, 1, 1]

    court.take(1, witness)
    court.bring_to_end(1)
    court.judge()


def test_a_login_session_killed_after_submit(court: Court) -> None:
    """Every process of the session and its terminal go; job and agent stay."""
    agent = court.agent
    witness = court.make(Way.EXITS)
    id_file = f"{agent.home}/id"
    shell, terminal = pty.fork()
    if shell == 0:
        os.chdir(agent.home)
        argv = ["sh", "-c", 'agentctl submit -- "$@" >id.new; mv id.new id; cat', "sh"]
        os.execvpe("sh", [*argv, *witness.argv], agent.env)
    wait_until(lambda: os.path.exists(id_file), deadline_s=15, what="the shell has submitted")
    assert agent.warden_pid()
    for pid in session_members(shell):
        os.kill(pid, signal.SIGKILL)
    os.close(terminal)
    os.waitpid(shell, 0)

    said = Path(id_file).read_text(encoding="ascii")

    assert said == "1\n"
    court.take(1, witness)
    assert court.state(1) == "running"
    assert witness.output.startswith(agent.cli_bytes("logs", "1"))
    court.bring_to_end(1)
    court.judge()


def test_a_follower_sees_the_whole_log_of_a_restless_agent(court: Court) -> None:
    """`logs -f` begins before and ends after three servers and a warden were killed."""
    agent = court.agent
    job_id = court.submit(Way.EXITS)
    court.wait_runs(job_id)
    got = bytearray()
    with agent.popen("logs", "-f", str(job_id), stdout=subprocess.PIPE) as follower:
        assert follower.stdout is not None
        reader = threading.Thread(target=lambda: got.extend(follower.stdout.read()))
        reader.start()
        agent.kill(agent.server_pid())
        wait_until(agent.server_pid, what="another server")
        agent.kill(agent.warden_pid(), agent.server_pid())
        court.bring_to_end(job_id)
        assert follower.wait(20) == 0
        reader.join()
    assert bytes(got) == court.witness(job_id).output
    court.judge()
