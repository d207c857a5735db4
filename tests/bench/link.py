"""One host over ssh: commands, calls, streams, and the time until a cut link is back."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import IO, TYPE_CHECKING

from tests.bench.remote import plain_ssh, run_plain, warm_rig
from tests.bench.rivals import is_installed, task_spooler
from tests.bench.stage import Stage
from tests.bench.table import Row, interleaved, median_of
from tests.helpers.sshrig import SshRig
from tests.helpers.wait import dawdle

if TYPE_CHECKING:
    from agentctl import Client

RUNS = 15
CALLS = 300
STREAM_BLOCKS = 400_000_000 // 65536
STREAM_RUNS = 5
CUT_RUNS = 5
LS_RATIO = 1.5
CALL_BUDGET_MS = 2.0
STREAM_BUDGET_MB_S = 200
KILLED_BUDGET_S = 2.0
FROZEN_BUDGET_S = 10.0
#: More than all cuts take, at one tick each 20 ms.
_TICKS = 15_000


def measure(stage: Stage) -> list[Row]:
    """Return what a person and a program pay for the way to a host, and how it heals."""
    with warm_rig() as (rig, client):
        rows = [*_commands(stage, rig), _calls(client), _stream(stage, rig, client)]
    for what, cut, budget_s, ways in (
        ("link back, its master killed", _kill_master, KILLED_BUDGET_S, ()),
        ("link back, the server's end killed", _end_sessions, KILLED_BUDGET_S, (_end_sessions,)),
        ("link back, its master frozen", _freeze_master, FROZEN_BUDGET_S, ()),
        (
            "link back, the server's end frozen",
            _freeze_sessions,
            FROZEN_BUDGET_S,
            (_freeze_sessions,),
        ),
    ):
        ours = _back_s(stage, cut)
        theirs = _autossh_back_s(stage, ways[0]) if ways and is_installed("autossh") else None
        rival = "autossh tail -f" if ways else ""
        budget = f"<= {budget_s:g} s"
        rows.append(Row(what, ours, "s", rival, theirs, budget, ours <= budget_s))
    return rows


def _commands(stage: Stage, rig: SshRig) -> list[Row]:
    """Return `agentctl -H host ls` beside plain ssh, whole processes, taken in turns."""
    with plain_ssh(rig) as words, ExitStack() as stack:
        ways: list[Callable[[], object]] = [
            partial(rig.client.cli, "-H", rig.destination, "ls", check=True),
            partial(run_plain, rig, words, "true"),
            partial(rig.server.cli, "ls", check=True),
        ]
        if is_installed("tsp"):
            spooler = stack.enter_context(task_spooler(stage.fresh("tsp"), 1))
            tsp = f"TS_SOCKET={spooler.env['TS_SOCKET']} tsp"
            ways.append(partial(run_plain, rig, words, tsp))
        ours, true, at_home, *tsp_ms = interleaved(RUNS, *(partial(_ms, way) for way in ways))
    what = "agentctl -H host ls, warm, whole process"
    budget = f"<= {LS_RATIO} x ssh host true"
    is_met = ours <= LS_RATIO * true
    return [
        Row(what, ours, "ms", "ssh host true", true, budget, is_met),
        # What the way alone costs.
        Row(what, ours, "ms", "agentctl ls on the server", at_home),
        Row(what, ours, "ms", "ssh host tsp", next(iter(tsp_ms), None)),
    ]


def _ms(call: Callable[[], object]) -> float:
    began_s = time.monotonic()
    call()
    return 1000 * (time.monotonic() - began_s)


def _calls(client: Client) -> Row:
    job = client.submit(["true"])
    client.wait(job.id, 10)
    ours = median_of(CALLS, partial(_ms, partial(client.get, job.id)))
    budget = f"median <= {CALL_BUDGET_MS:g} ms"
    return Row(
        "unary call over ssh, warm", ours, "ms", budget=budget, is_met=ours <= CALL_BUDGET_MS
    )


def _stream(stage: Stage, rig: SshRig, client: Client) -> Row:
    note = f"{stage.fresh('stream')}/note"
    job = client.submit([*stage.probe, "blocks", str(STREAM_BLOCKS), note])
    assert client.wait(job.id, 120).exit_code == 0
    whole = f"{stage.fresh('cat')}/log"
    size_bytes = STREAM_BLOCKS * 65536
    with open(whole, "wb") as file:
        file.write(b"x" * size_bytes)

    def ours() -> float:
        began_s = time.monotonic()
        received = sum(map(len, client.logs(job.id)))
        assert received == size_bytes
        return received / 1e6 / (time.monotonic() - began_s)

    def theirs(words: tuple[str, ...]) -> float:
        began_s = time.monotonic()
        run_plain(rig, words, f"cat {whole}")
        return size_bytes / 1e6 / (time.monotonic() - began_s)

    with plain_ssh(rig) as words:
        mb_s, cat_mb_s = interleaved(STREAM_RUNS, ours, partial(theirs, words))
    budget = f">= {STREAM_BUDGET_MB_S} MB/s"
    is_met = mb_s >= STREAM_BUDGET_MB_S
    return Row("log streamed over ssh, SDK", mb_s, "MB/s", "ssh host cat", cat_mb_s, budget, is_met)


def _back_s(stage: Stage, cut: Callable[[SshRig], None]) -> float:
    """Return the median time from a cut until a line written after it is printed."""
    with warm_rig() as (rig, client):
        job = client.submit([*stage.probe, "ticks", str(_TICKS)])
        follow = rig.client.popen(
            *("-H", rig.destination, "logs", "-f", str(job.id)),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        return _median_back_s(rig, follow, cut)


def _autossh_back_s(stage: Stage, cut: Callable[[SshRig], None]) -> float:
    """Return the same of `ssh host tail -f`, with the signs of life that ours has."""
    with warm_rig() as (rig, _), open(f"{stage.fresh('tail')}/out", "wb") as out:
        job = subprocess.Popen([*stage.probe, "ticks", str(_TICKS)], stdout=out)
        alive = ["-o", "ServerAliveInterval=3", "-o", "ServerAliveCountMax=2"]
        options = ["-M", "0", *rig.ssh_command[1:], *alive, "-T", rig.destination]
        follow = subprocess.Popen(
            ["autossh", *options, f"tail -n 1 -f {out.name}"],
            env={**rig.client.env, "AUTOSSH_GATETIME": "0"},
            cwd=rig.client.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        try:
            return _median_back_s(rig, follow, cut)
        finally:
            job.kill()
            job.wait()


def _median_back_s(
    rig: SshRig, follow: subprocess.Popen[bytes], cut: Callable[[SshRig], None]
) -> float:
    assert follow.stdout is not None
    with follow, follow.stdout as lines:
        try:
            return statistics.median(_one_cut(rig, lines, cut) for _ in range(CUT_RUNS))
        finally:
            # autossh ends its ssh at this one.
            follow.terminate()


def _one_cut(rig: SshRig, lines: IO[bytes], cut: Callable[[SshRig], None]) -> float:
    _read_after(lines, time.monotonic_ns())
    # A link that has just been made is not what is cut in life.
    dawdle(1.0)
    _read_after(lines, time.monotonic_ns())
    cut(rig)
    cut_ns = time.monotonic_ns()
    # What had left the server before the cut may still be under way.
    return _read_after(lines, cut_ns) / 1e9


def _read_after(lines: IO[bytes], since_ns: int) -> int:
    """Read until a line that was written after that; return how long after it was printed."""
    for line in lines:
        # The first one after a break may be cut in the rival's half.
        if line.rstrip().isdigit() and int(line) > since_ns:
            return time.monotonic_ns() - since_ns
    raise AssertionError("the follower ended before the cuts did")


def _kill_master(rig: SshRig) -> None:
    _signal(rig.master_pids(), signal.SIGKILL)


def _freeze_master(rig: SshRig) -> None:
    _signal(rig.master_pids(), signal.SIGSTOP)


def _end_sessions(rig: SshRig) -> None:
    _signal(rig.sshd.session_pids(), signal.SIGKILL)


def _freeze_sessions(rig: SshRig) -> None:
    _signal(rig.sshd.session_pids(), signal.SIGSTOP)


def _signal(pids: Sequence[int] | set[int], number: signal.Signals) -> None:
    assert pids, "nothing to be cut"
    for pid in pids:
        os.kill(pid, number)
