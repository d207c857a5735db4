"""kill -9 of the agent, of clients, of a login session, while jobs run."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.faults.court import Court
from tests.helpers.clients import answer, client_with_key, deaf_client
from tests.helpers.processes import session_members
from tests.helpers.wait import wait_gone, wait_until
from tests.helpers.witness import Way


def test_twenty_jobs_outlive_the_agent(court: Court) -> None:
    """Warden and server at one blow; the next `ls` shows all twenty, and their ends are exact."""
    ways = [Way.EXITS, Way.DIES, Way.STOPPED, Way.EXITS] * 5
    made = [court.make(way) for way in ways]
    with ThreadPoolExecutor(4) as pool:
        jobs = list(pool.map(court.submit_made, made))
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
    with deaf_client(agent, "one", witness.argv):
        took = f"{agent.state_dir}/live/1"
        wait_until(lambda: os.path.exists(took), deadline_s=15, what="the server took it")

    again = answer(client_with_key(agent, "one", witness.argv))

    assert again == 1
    court.take(again, witness)
    court.bring_to_end(again)
    court.judge()


def test_a_client_killed_before_the_server_took_it(court: Court) -> None:
    """No job, until somebody asks again."""
    agent = court.agent
    agent.start()
    witness = court.make(Way.EXITS)
    point = "server.submit.begin"
    agent.crash_at(point)
    with deaf_client(agent, "one", witness.argv):
        wait_until(lambda: agent.crashed(point), deadline_s=15, what="the server died")
    assert agent.cli("ls", "--all", "--json", check=True).stdout == "[]\n"

    court.take(answer(client_with_key(agent, "one", witness.argv)), witness)

    court.bring_to_end(1)
    court.judge()


def test_client_and_server_killed_together(court: Court) -> None:
    """After the launch, before the answer: the key is found in what is on disk."""
    agent = court.agent
    agent.start()
    witness = court.make(Way.EXITS)
    with deaf_client(agent, "one", witness.argv) as deaf:
        agent.crash_at("server.submit.launched", deaf.pid)
        assert deaf.wait(30) == -signal.SIGKILL

    court.take(answer(client_with_key(agent, "one", witness.argv)), witness)

    court.bring_to_end(1)
    court.judge()


def test_one_key_from_many_clients_is_one_job(court: Court) -> None:
    """Four at once, and the server killed under them."""
    agent = court.agent
    agent.start()
    witness = court.make(Way.EXITS)
    agent.crash_at("server.submit.indexed")
    clients = [client_with_key(agent, "one", witness.argv) for _ in range(4)]

    assert [answer(client) for client in clients] == [1, 1, 1, 1]

    court.take(1, witness)
    court.bring_to_end(1)
    court.judge()


def test_a_login_session_killed_after_submit(court: Court) -> None:
    """Every process of the session and its terminal go; job and agent stay."""
    agent = court.agent
    witness = court.make(Way.EXITS)
    id_file = f"{agent.home}/id"
    terminal, end = pty.openpty()
    line = 'agentctl submit -- "$@" >id.new; mv id.new id; cat'
    login = ["setsid", "--ctty", "sh", "-c", line, "sh", *witness.argv]
    with subprocess.Popen(
        login, stdin=end, stdout=end, stderr=end, env=agent.env, cwd=agent.home
    ) as shell:
        os.close(end)
        wait_until(lambda: os.path.exists(id_file), deadline_s=15, what="the shell has submitted")
        assert agent.warden_pid()
        for pid in session_members(shell.pid):
            os.kill(pid, signal.SIGKILL)
        os.close(terminal)
    assert shell.returncode == -signal.SIGKILL

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
    with (
        agent.popen("logs", "-f", str(job_id), stdout=subprocess.PIPE) as follower,
        ThreadPoolExecutor() as pool,
    ):
        assert follower.stdout is not None
        reading = pool.submit(follower.stdout.read)
        agent.kill(agent.server_pid())
        wait_until(agent.server_pid, what="another server")
        agent.kill(agent.warden_pid(), agent.server_pid())
        court.bring_to_end(job_id)
        assert follower.wait(20) == 0
        assert reading.result() == court.witness(job_id).output
    court.judge()
