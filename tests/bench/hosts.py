"""Many hosts: the first minute of one, and the list of fifty."""

from __future__ import annotations

import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from tests.bench.remote import cold_rig
from tests.bench.stage import Stage
from tests.bench.table import Row, median_of
from tests.helpers.agent import Agent, private_agent
from tests.helpers.sshd import Rules
from tests.helpers.sshrig import BARE_PATH, SshRig, Variant

ADD_BUDGET_S = 60
HOSTS = 50
LS_RUNS = 5
LS_BUDGET_S = 2.0
LS_BUDGET_MB = 150


def measure(stage: Stage) -> list[Row]:
    """Return the time to make a server ready, and what a list of fifty hosts takes."""
    add_s = _add_s()
    budget = f"<= {ADD_BUDGET_S} s"
    added = Row(
        "host add --offline, bare server", add_s, "s", "", None, budget, add_s <= ADD_BUDGET_S
    )
    return [added, *_fifty()]


def _add_s() -> float:
    with cold_rig(Variant(path=BARE_PATH)) as rig:
        began_s = time.monotonic()
        done = rig.client.cli("host", "add", "--offline", rig.destination, timeout=300)
        took_s = time.monotonic() - began_s
        assert done.returncode == 0, done.stderr
        return took_s


def _fifty() -> list[Row]:
    # Each host's own SetEnv leads to its own agent. By default sshd turns away logins at random
    # once ten are under way (sshd_config(5), MaxStartups): one server is no fifty.
    rules = Rules(accepted_variables=("AGENTD_*",), max_startups="200")
    with cold_rig(Variant(rules=rules)) as rig, ExitStack() as stack:
        agents = [stack.enter_context(private_agent()) for _ in range(HOSTS)]
        for number, agent in enumerate(agents):
            _introduce(rig, f"node{number}", agent)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda agent: agent.start(), agents))
            names = [f"node{number}" for number in range(HOSTS)]
            list(pool.map(lambda name: _warm(rig, name), names))
        taken: list[int] = []
        took_s = median_of(LS_RUNS, lambda: _ls_s(rig, taken))
        peak_mb = max(taken) / 1e6
    what = f"ls --all-hosts, {HOSTS} hosts"
    return [
        Row(what, took_s, "s", budget=f"<= {LS_BUDGET_S:g} s", is_met=took_s <= LS_BUDGET_S),
        Row(
            f"{what}, memory of the client",
            peak_mb,
            "MB",
            budget=f"<= {LS_BUDGET_MB} MB",
            is_met=peak_mb <= LS_BUDGET_MB,
        ),
    ]


def _introduce(rig: SshRig, name: str, agent: Agent) -> None:
    """Make `name` a host of the client's whose agent is this one."""
    variables = {key: value for key, value in agent.env.items() if key.startswith("AGENTD_")}
    settings = " ".join(f"{key}={value}" for key, value in variables.items())
    block = f"Host {name}\n  SetEnv {settings}\n"
    server = Path(rig.client_config).read_text("utf-8")
    if f"Host {rig.destination} node*\n" not in server:
        server = server.replace(f"Host {rig.destination}\n", f"Host {rig.destination} node*\n", 1)
        Path(rig.client_config).write_text(server, encoding="utf-8")
    rig.add_to_config(block)
    rig.know(name, destination=name)


def _warm(rig: SshRig, name: str) -> None:
    rig.client.cli("-H", name, "ls", check=True, timeout=60)


def _ls_s(rig: SshRig, taken: list[int]) -> float:
    """Return how long one list took; add to `taken` the most memory the client had, in bytes."""
    began_s = time.monotonic()
    process = rig.client.popen("ls", "--all-hosts", "--json", stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout as out:
        listed = out.read()
    _, status, usage = os.wait4(process.pid, 0)
    took_s = time.monotonic() - began_s
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, listed[-2000:]
    # getrusage(2): in kilobytes.
    taken.append(usage.ru_maxrss * 1024)
    return took_s
