"""What a submit asks for, and what is refused before anything is asked."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Any

import pytest

from agentapi.v1 import job_pb2
from agentctl.api.draft import Draft, current_umask, to_wire
from agentctl.errors import InvalidSpecError


def test_a_job_gets_the_callers_environment_directory_and_umask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under nohup."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLOUR", "bl\udcffe")
    previous = os.umask(0o027)
    try:
        spec = to_wire(Draft(["true"], env={"EXTRA": "1"}))
    finally:
        os.umask(previous)
    environment = {pair.name: pair.value for pair in spec.environment}
    assert environment[b"COLOUR"] == b"bl\xffe"
    assert environment[b"EXTRA"] == b"1"
    assert environment[b"PATH"] == os.environb[b"PATH"]
    assert spec.cwd == os.fsencode(tmp_path)
    assert spec.umask == 0o027
    assert current_umask() == previous


def test_a_job_gets_the_callers_limits() -> None:
    """Every one that the kernel has, soft and hard; none is unlimited."""
    spec = to_wire(Draft(["true"]))
    limits = {limit.name: limit for limit in spec.resource_limits}
    assert {"nofile", "stack", "core", "cpu", "as", "nproc"} <= limits.keys()
    for name, limit in limits.items():
        soft, hard = resource.getrlimit(getattr(resource, f"RLIMIT_{name.upper()}"))
        assert (limit.soft if limit.HasField("soft") else -1) == soft
        assert (limit.hard if limit.HasField("hard") else -1) == hard


def test_a_job_started_by_a_job_does_not_carry_its_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would be taken for a process of the first one."""
    monkeypatch.setenv("AGENTCTL_JOB_UID", "0" * 32)
    spec = to_wire(Draft(["true"]))
    assert b"AGENTCTL_JOB_UID" not in {pair.name for pair in spec.environment}


def test_relative_paths_are_the_callers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a shell's redirections, whatever the job's own directory is."""
    monkeypatch.chdir(tmp_path)
    spec = to_wire(Draft(["true"], cwd="sub", output="out.log", error="../err", stdin="in"))
    root = os.fsencode(tmp_path)
    assert spec.cwd == root + b"/sub"
    assert spec.files.stdout_path == root + b"/out.log"
    assert spec.files.stderr_path == os.path.dirname(root) + b"/err"
    assert spec.stdin_path == root + b"/in"


def test_units_arrive_as_bytes_and_durations() -> None:
    """16G and 8h as numbers on the wire."""
    spec = to_wire(Draft(["true"], mem="16G", timeout="8h", grace=0, retain=1 << 20))
    assert spec.mem_limit_bytes == 16 << 30
    assert spec.timeout.ToNanoseconds() == 8 * 3600 * 10**9
    assert spec.HasField("grace")
    assert spec.grace.ToNanoseconds() == 0
    assert spec.log_retention_bytes == 1 << 20


def test_what_the_guard_may_do_is_told() -> None:
    """The action, who goes first, how often it may come again."""
    spec = to_wire(Draft(["true"], mem="16GB", mem_action="warn", preemptible=True, requeue=3))
    assert spec.mem_limit_bytes == 16_000_000_000
    assert spec.mem_action == job_pb2.MEM_ACTION_WARN
    assert (spec.preemptible, spec.requeue_limit) == (True, 3)
    plain = to_wire(Draft(["true"], mem=4 << 20))
    assert plain.mem_action == job_pb2.MEM_ACTION_UNSPECIFIED
    assert (plain.preemptible, plain.requeue_limit) == (False, 0)


def test_what_was_not_asked_for_is_unset() -> None:
    """The agent's defaults are the agent's."""
    spec = to_wire(Draft(["true"]))
    for field in ("timeout", "grace", "mem_limit_bytes", "log_retention_bytes"):
        assert not spec.HasField(field)
    assert spec.WhichOneof("output") == "merged"


@pytest.mark.parametrize(
    ("draft", "word"),
    [
        ({"argv": []}, "no command"),
        ({"argv": [""]}, "no command"),
        ({"argv": "python train.py"}, "list"),
        ({"argv": ["a\0b"]}, "NUL"),
        ({"argv": ["echo", "x" * 200_000]}, "200,000"),
        ({"argv": ["echo", *(["x" * 100_000] * 70)]}, "together"),
        ({"argv": ["echo", 7]}, "not text"),
        ({"mem": "16Q"}, "mem"),
        ({"mem": 0}, "mem"),
        ({"mem": 1.5}, "mem"),
        ({"mem": True}, "mem"),
        ({"mem": "999999P"}, "mem: '999999P' is not below 8 EiB"),
        ({"mem": "1G", "mem_action": "stop"}, "mem_action: 'stop' is none of kill, pause, warn"),
        ({"mem_action": "kill"}, "mem_action: there is no limit"),
        ({"mem": (4 << 20) - 1}, "mem: 4194303 is less than the 4 MiB that an empty"),
        ({"mem": -1}, "mem"),
        ({"mem": "-1G"}, "mem"),
        ({"mem": "nan"}, "mem"),
        ({"mem": float("nan")}, "mem"),
        ({"mem": "16GBB"}, "16GB"),
        ({"requeue": -1}, "requeue"),
        ({"requeue": 101}, "requeue: 101 is out of range"),
        ({"requeue": 1.0}, "requeue"),
        ({"requeue": True}, "requeue"),
        ({"preemptible": "yes"}, "preemptible"),
        ({"retain": "1"}, "retain"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": -1}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"timeout": float("inf")}, "timeout"),
        ({"grace": "99999d"}, "grace"),
        ({"name": "7"}, "job id"),
        ({"name": ""}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "x" * 201}, "name"),
        ({"labels": {"": "x"}}, "label"),
        ({"labels": {"a": "\x1b"}}, "label"),
        ({"env": {"A=B": "x"}}, "env"),
        ({"env": {"": "x"}}, "env"),
        ({"env": {"A": "x\0y"}}, "env A"),
        ({"cwd": ""}, "cwd"),
        ({"tty": True, "split_stderr": True}, "exclude"),
        ({"tty": True, "output": "x"}, "exclude"),
        ({"error": "x"}, "output"),
        ({"append": True}, "output"),
    ],
)
def test_bad_input_is_refused_by_name(draft: dict[str, Any], word: str) -> None:
    """The message says which option it was."""
    with pytest.raises(InvalidSpecError, match=word):
        to_wire(Draft(**{"argv": ["true"], **draft}))


def test_a_secret_never_stands_in_a_message() -> None:
    """A value of the environment is not repeated."""
    with pytest.raises(InvalidSpecError) as caught:
        to_wire(Draft(["true"], env={"TOKEN": "hunter2\0"}))
    assert "hunter2" not in str(caught.value)


def test_a_directory_that_is_gone_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shell may still stand in it."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(InvalidSpecError, match="no longer exists"):
        to_wire(Draft(["true"]))
    monkeypatch.chdir(tmp_path)


def test_one_file_named_twice_is_one_file(tmp_path: Path) -> None:
    """Two descriptors of their own would write over each other."""
    path = tmp_path / "o.log"
    link = tmp_path / "link"
    link.symlink_to(path)
    for error in (path, str(path), f"{tmp_path}/./o.log", link):
        draft = Draft(["true"], output=path, error=error)
        assert not draft.stderr_is_apart
        assert to_wire(draft).files.stderr_path == b""
    assert Draft(["true"], output=path, error=tmp_path / "e.log").stderr_is_apart
