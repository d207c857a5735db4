"""Hooks as real programs: what they are told, and what they cannot do to the agent."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from agentd.core.contract import GuardNotice, NoticeKind
from agentd.core.job import (
    Cause,
    Ended,
    ExitStatus,
    LeaderHandle,
    ProcessId,
    ResourceUsage,
    Running,
)
from agentd.server.runtime import hooks as module
from agentd.server.runtime.codec import summary_of
from agentd.server.runtime.hookrun import KEPT_BYTES, HookRun, Outcome, run_hook
from agentd.server.runtime.hooks import Hooks, HooksConfig
from agentd.server.runtime.model import JobInfo
from tests.helpers.wait import is_alive, wait_until
from tests.unit.agentd.server.places import make_paths, make_spec
from tests.unit.agentd.server.test_requeue import BY_GUARD
from tests.unit.agentd.server.wardenpeer import bench

HOSTILE = "$(touch /tmp/x); `id` \"'\n|&"
KILLED = Ended(5, 9, 4, ExitStatus(9), Cause.GUARD, ResourceUsage(), "stopped by the guard: x")


def script(directory: Path, text: str, name: str = "hook") -> str:
    """Return the path of a shell script that can be executed."""
    path = directory / name
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def a_run(program: str, timeout_s: float = 10.0) -> HookRun:
    """Return a run about no job."""
    return HookRun(
        "on_end", (program,), timeout_s, {**module.job_facts(None), "AGENTCTL_EVENT": "x"}
    )


def never() -> bool:
    """Say that the server goes on."""
    return False


def job(name: str = "train") -> JobInfo:
    """Return a job that the guard has killed."""
    return JobInfo(summary_of(make_spec(7, name=name)), KILLED, 1)


@pytest.fixture(name="running")
def _running(tmp_path: Path) -> Iterator[Callable[[HooksConfig], Hooks]]:
    """Yield a maker of hooks; afterwards no thread of theirs is left."""
    made: list[Hooks] = []

    def make(config: HooksConfig) -> Hooks:
        made.append(Hooks(str(tmp_path), config))
        return made[-1]

    yield make
    for hooks in made:
        hooks.close(20)
        assert not hooks._workers


def test_a_hook_is_told_everything_in_its_environment(
    tmp_path: Path, running: Callable[[HooksConfig], Hooks], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing of it is ever a shell's: hostile names are text."""
    told = tmp_path / "told"
    monkeypatch.setenv("OF_THE_AGENT", "kept")
    dump = "import json, os; print(json.dumps(dict(os.environ)))"
    program = script(
        tmp_path,
        f"exec > {told}.new; '{sys.executable}' -c '{dump}'; pwd; cat; echo \"$1\"\n"
        f"mv {told}.new {told}",
    )
    hooks = running(HooksConfig(on_end=(program, HOSTILE)))
    hooks.ended(job(HOSTILE), "job.ended")
    wait_until(told.exists, what="the hook ran")

    first, cwd, *argument = told.read_text(encoding="utf-8").split("\n", 2)
    environment = json.loads(first)
    facts = {key: value for key, value in environment.items() if key.startswith("AGENTCTL_")}
    del facts["AGENTCTL_JOB_UID"]
    assert facts == {
        "AGENTCTL_EVENT": "job.ended",
        "AGENTCTL_JOB_ID": "7",
        "AGENTCTL_JOB_NAME": HOSTILE,
        "AGENTCTL_JOB_STATE": "ended",
        "AGENTCTL_EXIT_CODE": "",
        "AGENTCTL_SIGNAL": "SIGKILL",
        "AGENTCTL_CAUSE": "guard",
        "AGENTCTL_REASON": "stopped by the guard: x",
        "AGENTCTL_GUARD_ACTION": "",
    }
    assert environment["OF_THE_AGENT"] == "kept"
    assert os.path.realpath(cwd) == os.path.realpath(os.path.expanduser("~"))
    assert argument == [f"{HOSTILE}\n"]


def test_a_hook_that_fails_is_one_line(
    tmp_path: Path, running: Callable[[HooksConfig], Hooks]
) -> None:
    """Its output is kept, under a line that says what it was about."""
    hooks = running(HooksConfig(on_guard=(script(tmp_path, "echo oops; exit 3"),)))
    with capture_logs() as logs:
        hooks.guarded(GuardNotice(NoticeKind.KILLED, 5, "33 of 32 GiB", 7), job())
        wait_until((tmp_path / "hooks.log").exists, what="its output")

    (line,) = [line for line in logs if line["event"] == "hook.failed"]
    assert (line["error"], line["about"], line["job_id"]) == ("exited 3", "guard.killed", "7")
    kept = (tmp_path / "hooks.log").read_text(encoding="utf-8").splitlines()
    assert kept[0].endswith("on_guard guard.killed job 7: exited 3")
    assert kept[1:] == ["oops"]


def test_a_hook_that_hangs_is_killed_with_all_it_started(tmp_path: Path) -> None:
    """Its group, and what has left the group and the session."""
    pids = tmp_path / "pids"
    program = script(
        tmp_path,
        f"sleep 600 & echo $! >> {pids}; setsid sh -c 'echo $$ >> {pids}; sleep 600' & sleep 600",
    )
    outcome = run_hook(a_run(program, 1.0), never)

    assert outcome.complaint == "timed out after 1 s"
    left = [int(word) for word in pids.read_text(encoding="utf-8").split()]
    assert len(left) == 2
    wait_until(lambda: not any(is_alive(pid) for pid in left), what="nothing is left")


def test_what_a_hook_leaves_behind_ends_with_it(tmp_path: Path) -> None:
    """It does not hold us up either, though it holds the output open."""
    pids = tmp_path / "pids"
    program = script(tmp_path, f"setsid sleep 600 & echo $! > {pids}; echo done")
    outcome = run_hook(a_run(program, 60.0), never)

    assert (outcome.complaint, outcome.output) == ("", b"done\n")
    (left,) = map(int, pids.read_text(encoding="utf-8").split())
    wait_until(lambda: not is_alive(left), what="nothing is left")


def test_a_hook_that_forks_and_forks_leaves_nothing(tmp_path: Path) -> None:
    """Two hundred sessions of their own, each with a child, end with it."""
    pids = tmp_path / "pids"
    one = f"setsid sh -c 'echo $$ >> {pids}; sleep 600 & wait' &"
    program = script(tmp_path, f"n=0; while [ $n -lt 200 ]; do {one} n=$((n+1)); done; sleep 600")
    outcome = run_hook(a_run(program, 2.0), never)

    assert outcome.complaint == "timed out after 2 s"
    left = [int(word) for word in pids.read_text(encoding="utf-8").split()]
    assert left
    wait_until(lambda: not any(is_alive(pid) for pid in left), what="nothing is left")


def test_a_hook_that_floods_is_cut(tmp_path: Path) -> None:
    """64 KiB are kept, the rest goes nowhere, and its time ends it."""
    outcome = run_hook(a_run(script(tmp_path, "exec yes"), 0.5), never)

    assert outcome.cut
    assert len(outcome.output) == KEPT_BYTES
    assert outcome.complaint.startswith("timed out")


def test_a_hook_that_was_deleted_or_made_useless_is_said(tmp_path: Path) -> None:
    """After the configuration was read; nothing else happens."""
    outcome = run_hook(a_run(str(tmp_path / "gone")), never)
    assert outcome.complaint.startswith("cannot be started: ")
    text = tmp_path / "text"
    text.write_text("no program", encoding="utf-8")
    assert run_hook(a_run(str(text)), never).complaint.startswith("cannot be started: ")


def test_hooks_are_run_four_at_a_time_and_a_hundred_wait(
    tmp_path: Path, running: Callable[[HooksConfig], Hooks]
) -> None:
    """The oldest is dropped, with a line; whoever adds one never waits."""
    started = tmp_path / "started"
    go = tmp_path / "go"
    os.mkfifo(go)
    program = script(tmp_path, f"echo x >> {started}; read line < {go}")
    hooks = running(HooksConfig(on_end=(program,), timeout_s=600.0))
    with capture_logs() as logs:
        for _ in range(module.MOST_AT_ONCE + module.MOST_WAITING):
            hooks.ended(job(), "job.ended")
        wait_until(
            lambda: started.exists() and started.read_text(encoding="utf-8").count("x") == 4,
            what="four hooks run",
        )
        for _ in range(5):
            hooks.ended(job(), "job.ended")

    assert len(hooks._workers) == module.MOST_AT_ONCE
    assert len(hooks._line) == module.MOST_WAITING
    dropped = [line for line in logs if line["event"] == "hook.dropped"]
    assert 5 <= len(dropped) <= 9
    assert started.read_text(encoding="utf-8").count("x") == 4


def test_the_file_of_outputs_is_rotated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file and the one before it, whatever is run."""
    monkeypatch.setattr(module, "FILE_BYTES", 1000)
    log = module.HookLog(str(tmp_path / "hooks.log"))
    for _ in range(10):
        log.write(a_run("/bin/true"), Outcome("", b"x" * 300))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["hooks.log", "hooks.log.1"]
    assert all(p.stat().st_size <= 1000 for p in tmp_path.iterdir())


def test_a_hook_that_hangs_delays_no_job(tmp_path: Path) -> None:
    """Jobs start and end, and the guard's notices are taken, while it does; closing ends it."""
    paths = make_paths(tmp_path)
    hang = script(tmp_path, "sleep 600")
    config = HooksConfig(on_guard=(hang,), on_end=(hang,), timeout_s=600.0)

    async def scenario() -> None:
        async with bench(paths, hooks=config) as at:
            for _ in range(10):
                job_id = await at.ended(final=BY_GUARD)
                at.tell(GuardNotice(NoticeKind.KILLED, 5, "x", job_id))
                await at.happened(job_id, "guard.killed")
            assert isinstance(at.supervisor.get(await at.started()).state, Running)

    asyncio.run(scenario())


def test_a_hook_is_told_what_the_act_makes_of_the_job() -> None:
    """The shim confirms it a moment later; an end that stands is never taken back."""

    def state(kind: NoticeKind, info: JobInfo) -> str:
        return module.notice_facts(GuardNotice(kind, 1, "x", 7), info)["AGENTCTL_JOB_STATE"]

    runs = replace(job(), state=Running(LeaderHandle(5, ProcessId(42, 1000), 41)))
    kinds = (NoticeKind.WARNED, NoticeKind.PAUSED, NoticeKind.KILLED, NoticeKind.RELEASED)
    assert [state(kind, runs) for kind in kinds] == ["running", "paused", "stopping", "running"]
    assert state(NoticeKind.KILLED, job()) == "ended"


def test_a_hook_without_a_thread_waits_for_the_next_event(
    tmp_path: Path, running: Callable[[HooksConfig], Hooks]
) -> None:
    """At a limit of threads no event raises, nothing is lost, and later all is well again."""
    told = tmp_path / "told"
    hooks = running(HooksConfig(on_end=(script(tmp_path, f"echo x >> {told}"),)))
    # More than there are addresses: the kernel refuses every thread.
    usual_bytes = threading.stack_size(1 << 48)
    try:
        with capture_logs() as logs:
            for _ in range(module.MOST_AT_ONCE + 1):
                hooks.ended(job(), "job.ended")
    finally:
        threading.stack_size(usual_bytes)

    assert [line["event"] for line in logs] == ["hook.delayed"] * (module.MOST_AT_ONCE + 1)
    assert (len(hooks._workers), len(hooks._line)) == (0, module.MOST_AT_ONCE + 1)
    hooks.ended(job(), "job.ended")
    wait_until(
        lambda: told.exists() and told.read_text(encoding="utf-8").count("x") == 6,
        what="all six hooks ran",
    )


def refuse_to_kill(_group: int, _signal_number: int) -> None:
    """Answer as the kernel does for a group of another user's, as sudo makes it."""
    raise PermissionError(errno.EPERM, "Operation not permitted")


def test_a_hook_that_became_another_users_keeps_its_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its group cannot be killed; what can is, and no descriptor stays open."""
    monkeypatch.setattr(os, "killpg", refuse_to_kill)
    pids = tmp_path / "pids"
    program = script(tmp_path, f"sleep 600 & echo $! >> {pids}; echo done")
    before = sorted(os.listdir("/proc/self/fd"))
    outcomes = [run_hook(a_run(program), never) for _ in range(3)]

    assert [(outcome.complaint, outcome.output) for outcome in outcomes] == [("", b"done\n")] * 3
    assert sorted(os.listdir("/proc/self/fd")) == before
    left = [int(word) for word in pids.read_text(encoding="utf-8").split()]
    assert len(left) == 3
    wait_until(lambda: not any(is_alive(pid) for pid in left), what="nothing is left")


# Said of a child that is left; as everywhere but here nobody hears it.
@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
def test_a_hook_that_nobody_can_kill_is_said_and_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds its worker up for two seconds, not for as long as it likes to live."""
    monkeypatch.setattr(os, "killpg", refuse_to_kill)
    # Another user's processes are never looked at.
    monkeypatch.setattr("agentd.server.runtime.hookrun.find_members", lambda *_: [])
    told = tmp_path / "told"
    go = tmp_path / "go"
    os.mkfifo(go)
    program = script(tmp_path, f"echo $$ > {told}; echo begun; read line < {go}")
    before = sorted(os.listdir("/proc/self/fd"))
    outcome = run_hook(a_run(program, 1.0), never)
    pid = int(told.read_text(encoding="utf-8"))
    was_alive = is_alive(pid)
    os.kill(pid, signal.SIGKILL)

    assert was_alive
    assert outcome.complaint == "timed out after 1 s; 1 processes of it cannot be killed"
    assert outcome.output == b"begun\n"
    assert sorted(os.listdir("/proc/self/fd")) == before
    wait_until(lambda: not is_alive(pid), what="it is gone")
    # Reaps it, as the next hook would.
    assert run_hook(a_run("/bin/true"), never).complaint == ""
    assert not os.path.exists(f"/proc/{pid}")


def test_a_hook_that_cannot_be_watched_is_ended_and_reaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a descriptor for its end it would run for ever; it is said instead."""
    real = os.pidfd_open
    refused: list[int] = []

    def none_left(pid: int) -> int:
        if refused:
            return real(pid)
        refused.append(pid)
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", none_left)
    before = sorted(os.listdir("/proc/self/fd"))
    outcome = run_hook(a_run(script(tmp_path, "sleep 600")), never)

    assert outcome.complaint == "cannot be watched: [Errno 24] Too many open files"
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert not os.path.exists(f"/proc/{refused[0]}")


def test_a_rotation_that_fails_closes_nobody_elses_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number that was let go of may be another thread's by then."""
    monkeypatch.setattr(module, "FILE_BYTES", 1000)
    path = tmp_path / "hooks.log"
    log = module.HookLog(str(path))
    log.write(a_run("/bin/true"), Outcome("", b"x" * 900))
    real = os.open
    others: list[int] = []

    def full_after_rotation(name: str, flags: int, mode: int) -> int:
        if path.exists():
            return real(name, flags, mode)
        others.append(real("/dev/null", os.O_RDONLY))
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", full_after_rotation)
        with pytest.raises(OSError, match="Too many open files"):
            log.write(a_run("/bin/true"), Outcome("", b"x" * 900))
    (other,) = others
    os.close(other)
    log.write(a_run("/bin/true"), Outcome("", b"x" * 900))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["hooks.log", "hooks.log.1"]
