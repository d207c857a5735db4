"""What a submit may hold, and what is said about what it may not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentd.core.guard.model import MemAction
from agentd.core.job import FileOutput, TerminalOutput
from agentd.errors import InvalidSpecError
from agentd.server.runtime.making import fill_in
from agentd.server.runtime.model import Defaults, JobDraft
from agentd.server.runtime.programs import find_program
from agentd.server.runtime.validate import (
    MAX_STRING_BYTES,
    check_grace,
    exec_limit_bytes,
    validate,
)

GOOD = JobDraft(
    idempotency_key="k1",
    argv=("true",),
    cwd="/",
    environment={"PATH": "/bin:/usr/bin", "EMPTY": ""},
    name="train 1",
    labels={"team": "a"},
    timeout_s=60.0,
    grace_s=0.0,
    umask=0o077,
    mem_limit_bytes=64 << 20,
    mem_action=MemAction.PAUSE,
    preemptible=True,
    requeue_limit=100,
    log_retention_bytes=100 << 20,
    resource_limits={"nofile": (333, 1024), "core": (0, -1), "cpu": (-1, -1)},
)

NO_NUMBER = float("nan")
TEN_YEARS = 10 * 365 * 86_400.0

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no argv": ({"argv": ()}, r"^argv is empty"),
    "an empty program": ({"argv": ("", "x")}, r"^argv\[0\] is empty"),
    "a NUL in an argument": ({"argv": ("true", "a\0b")}, r"^argv\[1\] holds a NUL"),
    "a 200 kB argument": (
        {"argv": ("true", "x" * 200_000)},
        r"^argv\[1\] is 200000 bytes long; the kernel takes at most 131071",
    ),
    "more arguments than the kernel takes": (
        {"argv": ("true", *["x" * 100_000] * 70)},
        r"^argv and environment are \d+ bytes together",
    ),
    "a NUL in cwd": ({"cwd": "/a\0"}, r"^cwd holds a NUL"),
    "a relative cwd": ({"cwd": "tmp"}, r"^cwd 'tmp' is not an absolute path"),
    "an empty cwd": ({"cwd": ""}, r"^cwd '' is not an absolute path"),
    "a missing cwd": ({"cwd": "/no/such"}, r"^cwd '/no/such': no such file or directory"),
    "a file as cwd": ({"cwd": "/etc/passwd"}, r"^cwd '/etc/passwd' is not a directory"),
    "a missing program": ({"argv": ("no-such-program",)}, r"no program 'no-such-program' on"),
    "a missing path": ({"argv": ("./no-such",)}, r"no program './no-such' in '/'"),
    "a directory as program": ({"argv": ("/tmp",)}, r"'/tmp' is not an executable file"),
    "a file that is no program": (
        {"argv": ("/etc/passwd",)},
        r"'/etc/passwd' is not an executable file",
    ),
    "a PATH that leads nowhere": ({"environment": {"PATH": "/no/such"}}, r"no program 'true' on"),
    "a variable without a name": ({"environment": {"": "x"}}, r"^env: '' is no name"),
    "a variable with an equals sign": (
        {"environment": {"A=B": "x"}},
        r"^env: 'A=B' is no name",
    ),
    "a NUL in a variable": (
        {"environment": {"SECRET": "hunter2\0"}},
        r"^env: the value of SECRET holds a NUL",
    ),
    "a variable that is too long": (
        {"environment": {"PATH": "/bin", "A": "x" * MAX_STRING_BYTES}},
        r"^env: A is 131074 bytes",
    ),
    "a number as name": ({"name": "42"}, r"^name '42' is a number"),
    "a name of two lines": ({"name": "a\nb"}, r"^name 'a\\nb' holds a character"),
    "a name with an escape": ({"name": "\x1b[31m"}, r"^name .* holds a character"),
    "a name that is no UTF-8": ({"name": "\udcff"}, r"^name .* holds a character"),
    "a name too long": ({"name": "x" * 201}, r"^name is 201 characters long"),
    "a label without a key": ({"labels": {"": "x"}}, r"^label: '' is no key"),
    "a label's key with an equals sign": ({"labels": {"a=b": "x"}}, r"^label: 'a=b' is no key"),
    "a label of two lines": ({"labels": {"a": "x\ny"}}, r"^label: the value of a 'x\\ny'"),
    "too many labels": ({"labels": {f"k{i}": "" for i in range(65)}}, r"^label: 65 are given"),
    "a key too long": ({"idempotency_key": "k" * 201}, r"^idempotency_key is 201"),
    "no time at all": ({"timeout_s": 0.0}, r"^timeout of 0.0 s: it must be more than 0"),
    "a negative timeout": ({"timeout_s": -1.0}, r"^timeout of -1.0 s"),
    "an endless timeout": ({"timeout_s": float("inf")}, r"^timeout of inf s"),
    "no number as timeout": ({"timeout_s": NO_NUMBER}, r"^timeout of nan s"),
    "ten years": ({"timeout_s": TEN_YEARS}, r"below 10 years"),
    "a negative grace": ({"grace_s": -0.5}, r"^grace of -0.5 s: it must be 0 or more"),
    "no memory": ({"mem_limit_bytes": 0}, r"^mem: less than 4.0 MiB"),
    "hardly any memory": (
        {"mem_limit_bytes": (4 << 20) - 1},
        r"^mem: less than 4.0 MiB, which an empty process needs",
    ),
    "more memory than the host has": (
        {"mem_limit_bytes": 1 << 60},
        r"^mem: 1048576.0 TiB is more than this host has: [\d.]+ [GT]iB$",
    ),
    "an action without a limit": ({"mem_limit_bytes": None}, r"^mem_action: there is no limit"),
    "too many requeues": ({"requeue_limit": 101}, r"^requeue 101 is out of range"),
    "hardly any log": ({"log_retention_bytes": 1000}, r"^retain of 1000 bytes"),
    "a mask too wide": ({"umask": 0o1000}, r"^umask 0o1000"),
    "a limit nobody knows": (
        {"resource_limits": {"patience": (1, 2)}},
        r"^resource_limits: this host knows no limit 'patience'",
    ),
    "a soft limit above the hard one": (
        {"resource_limits": {"nofile": (3, 2)}},
        r"^resource_limits: the soft limit of nofile is above the hard one",
    ),
    "no soft limit below a hard one": (
        {"resource_limits": {"nofile": (-1, 2)}},
        r"^resource_limits: the soft limit of nofile",
    ),
    "a limit beyond all": (
        {"resource_limits": {"core": (1 << 63, -1)}},
        r"^resource_limits: core is above",
    ),
    "no columns": ({"output": TerminalOutput(0, 24)}, r"^columns 0 is not from 1 to 10000"),
    "too many rows": ({"output": TerminalOutput(80, 10_001)}, r"^rows 10001"),
    "a missing stdin": ({"stdin_path": "/no/such"}, r"^stdin '/no/such': no such file"),
    "a relative stdin": ({"stdin_path": "in"}, r"^stdin 'in' is not an absolute path"),
    "a directory as stdin": ({"stdin_path": "/tmp"}, r"^stdin '/tmp' is a directory"),
    "a relative output": (
        {"output": FileOutput("out", None, append=False)},
        r"^output 'out' is not an absolute path",
    ),
    "an output nowhere": (
        {"output": FileOutput("/no/such/out", None, append=False)},
        r"^output: the directory '/no/such': no such file",
    ),
    "an output below a file": (
        {"output": FileOutput("/etc/passwd/out", None, append=False)},
        r"^output '/etc/passwd/out': not a directory",
    ),
    "a directory as output": (
        {"output": FileOutput("/tmp", None, append=False)},
        r"^output '/tmp' is a directory",
    ),
    "an error file nowhere": (
        {"output": FileOutput("/dev/null", "/no/such/err", append=True)},
        r"^error: the directory '/no/such'",
    ),
}


@pytest.fixture(name="stranger")
def _stranger(tmp_path: Path) -> Iterator[Path]:
    """Yield a directory of somebody who is no superuser, whom permissions bind."""
    tmp_path.chmod(0o755)
    for above in tmp_path.parents[:2]:
        above.chmod(above.stat().st_mode | 0o055)
    if os.geteuid() != 0:
        yield tmp_path
        return
    os.chown(tmp_path, 65534, 65534)
    os.seteuid(65534)
    yield tmp_path
    os.seteuid(0)
    assert os.geteuid() == 0


def test_a_good_draft_passes() -> None:
    """Nothing to say."""
    validate(GOOD)


@pytest.mark.parametrize("row", REFUSED.values(), ids=REFUSED.keys())
def test_a_draft_is_refused(row: tuple[dict[str, Any], str]) -> None:
    """One line that names the field, and no value of the environment."""
    change, message = row

    with pytest.raises(InvalidSpecError, match=message) as refusal:
        validate(replace(GOOD, **change))

    assert "\n" not in str(refusal.value)
    assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize("grace_s", [0.0, 0.001, 86_400.0])
def test_a_grace_may_be_zero(grace_s: float) -> None:
    """Zero is SIGKILL at once."""
    check_grace(grace_s)


def test_the_longest_argument_that_the_kernel_takes_passes() -> None:
    """One byte less than the limit: the rest is its NUL (execve(2))."""
    validate(replace(GOOD, argv=("true", "x" * (MAX_STRING_BYTES - 1))))


def test_the_limit_is_what_the_kernel_says() -> None:
    """A quarter of the stack limit, as sysconf(3) has it, and never above 6 MiB."""
    assert exec_limit_bytes({}) <= min(os.sysconf("SC_ARG_MAX"), 6 << 20)


def test_a_jobs_own_stack_limit_counts() -> None:
    """What would fail at the start is refused before it."""
    assert exec_limit_bytes({"stack": (4 << 20, -1)}) == 1 << 20
    assert exec_limit_bytes({"stack": (0, -1)}) == MAX_STRING_BYTES
    assert exec_limit_bytes({"stack": (-1, -1)}) <= 6 << 20
    small = replace(GOOD, resource_limits={"stack": (1 << 20, 1 << 20)})
    with pytest.raises(InvalidSpecError, match="at most 262144"):
        validate(replace(small, argv=("true", *["x" * 100_000] * 3)))


@pytest.mark.parametrize(
    "path",
    [
        "/dev/stdout",
        "/dev/stderr",
        "/dev//stdin",
        "/dev/fd/63",
        "/dev/tty",
        "/proc/self/fd/1",
        "/proc/thread-self/fd/2",
        "/proc/12/task/13/fd/1",
        "/home/me/-",
        "-",
        "{link}",
    ],
)
@pytest.mark.parametrize("field", ["output", "error", "stdin"])
def test_a_stream_of_whoever_opens_it_is_refused(tmp_path: Path, path: str, field: str) -> None:
    """It would be the agent's: its log would get what the job writes."""
    (tmp_path / "link").symlink_to("second")
    (tmp_path / "second").symlink_to("/dev/stdout")
    path = path.format(link=tmp_path / "link")
    changes: dict[str, dict[str, Any]] = {
        "output": {"output": FileOutput(path, None, append=True)},
        "error": {"output": FileOutput(str(tmp_path / "out"), path, append=True)},
        "stdin": {"stdin_path": path},
    }

    with pytest.raises(InvalidSpecError, match=rf"^{field} .*name a file"):
        validate(replace(GOOD, **changes[field]))


def test_two_streams_in_one_file_are_one(tmp_path: Path) -> None:
    """However the path is written: such a job's stderr is not kept apart."""
    for error in ("/tmp/o", "/tmp//x/../o"):
        spec = fill_in(
            replace(GOOD, output=FileOutput("/tmp/o", error, append=True)), Defaults(), 3
        )
        assert spec.output == FileOutput("/tmp/o", None, append=True)
    apart = FileOutput(str(tmp_path / "o"), str(tmp_path / "e"), append=False)
    assert fill_in(replace(GOOD, output=apart), Defaults(), 3).output == apart


@pytest.mark.parametrize(
    ("line", "interpreter"),
    [
        (b"#!/no/such/python\n", "/no/such/python"),
        (b"#! \t/no/such/env python\n", "/no/such/env"),
        (b"#!/bin/sh\r\n", r"/bin/sh\\r"),
        (b"#!no/such", "no/such"),
        (b"#!/bin/sh/x\n", "/bin/sh/x"),
    ],
)
def test_a_script_whose_interpreter_is_missing_is_refused(
    tmp_path: Path, line: bytes, interpreter: str
) -> None:
    """The kernel would only say that there is no such file, of a file that is there."""
    Path(_script(tmp_path / "tool")).write_bytes(line)

    with pytest.raises(InvalidSpecError, match=rf"^argv\[0\]: .*tool.*'{interpreter}' does not"):
        validate(replace(GOOD, argv=("./tool",), cwd=str(tmp_path)))


@pytest.mark.parametrize(
    "content", [b"#!\n", b"#!/bin/sh -e\n", b"#!./tool\n", b"echo\n", b"", b"#!/" + b"x" * 300]
)
def test_a_program_that_may_run_passes(tmp_path: Path, content: bytes) -> None:
    """A relative interpreter is the job's directory's; what is cut off is not judged."""
    Path(_script(tmp_path / "tool")).write_bytes(content)

    validate(replace(GOOD, argv=("./tool",), cwd=str(tmp_path)))


def test_a_later_program_of_the_path_counts_if_the_first_cannot_run(tmp_path: Path) -> None:
    """As execvp(3) goes on after ENOENT."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    Path(_script(tmp_path / "a" / "tool")).write_bytes(b"#!/no/such\n")
    expected = _script(tmp_path / "b" / "tool")
    path = f"{tmp_path}/a:{tmp_path}/b"

    assert find_program(replace(GOOD, argv=("tool",), environment={"PATH": path})) == expected


def _script(path: Path, mode: int = 0o755) -> str:
    path.write_text("#!/bin/sh\n", encoding="ascii")
    path.chmod(mode)
    return str(path)


def test_a_program_is_looked_up_on_the_jobs_own_path(tmp_path: Path) -> None:
    """Not on the agent's; the first match that may be executed counts."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    _script(tmp_path / "a" / "tool", 0o644)
    expected = _script(tmp_path / "b" / "tool")
    path = f"{tmp_path}/a:{tmp_path}/b"

    assert find_program(replace(GOOD, argv=("tool",), environment={"PATH": path})) == expected


@pytest.mark.parametrize("path", ["bin", ":/no/such", ""], ids=["relative", "empty part", "empty"])
def test_a_relative_path_entry_is_the_jobs_directory(tmp_path: Path, path: str) -> None:
    """As execvp(3) does after the change of directory."""
    (tmp_path / "bin").mkdir()
    _script(tmp_path / "tool")
    _script(tmp_path / "bin" / "tool")
    draft = replace(GOOD, argv=("tool",), cwd=str(tmp_path), environment={"PATH": path})

    assert os.path.samefile(find_program(draft), tmp_path / path.partition(":")[0] / "tool")


def test_a_path_with_a_slash_is_relative_to_cwd(tmp_path: Path) -> None:
    """No PATH is searched for it."""
    (tmp_path / "bin").mkdir()
    _script(tmp_path / "bin" / "tool")

    validate(replace(GOOD, argv=("bin/tool",), cwd=str(tmp_path)))


def test_without_a_path_the_standard_one_is_searched() -> None:
    """As execvp(3) does."""
    assert find_program(replace(GOOD, environment={})).endswith("/true")


def test_permissions_are_looked_at(stranger: Path) -> None:
    """What the user may not enter, read, write or execute is refused before the start."""
    closed = stranger / "closed"
    closed.mkdir(0o000)
    secret = stranger / "secret"
    secret.touch(0o000)
    script = _script(stranger / "script", 0o644)
    taken = FileOutput(str(secret), None, append=True)
    inside = FileOutput(f"{closed}/out", None, append=False)
    rows: list[tuple[dict[str, Any], str]] = [
        ({"cwd": str(closed)}, r"^cwd .* may not be entered"),
        ({"stdin_path": str(secret)}, r"^stdin .* may not be read"),
        ({"argv": (script,)}, r"is not an executable file"),
        ({"output": taken}, r"^output .* may not be written"),
        ({"output": inside}, r"^output .*ermission denied"),
    ]

    for change, message in rows:
        with pytest.raises(InvalidSpecError, match=message):
            validate(replace(GOOD, **change))
    closed.chmod(0o500)
    with pytest.raises(InvalidSpecError, match=r"no file can be made in"):
        validate(replace(GOOD, output=inside))
    closed.chmod(0o700)


def test_output_into_a_new_and_an_old_file_passes(tmp_path: Path) -> None:
    """A file that is to be made, and one that is there."""
    (tmp_path / "err").touch()
    output = FileOutput(f"{tmp_path}/out", f"{tmp_path}/err", append=True)

    validate(replace(GOOD, output=output, stdin_path="/dev/null"))


def test_defaults_fill_what_was_left_open() -> None:
    """What the draft says stays; the rest comes from the config."""
    bare = JobDraft("", ("true",), "/", {})
    defaults = Defaults(grace_s=7.0, log_segment_bytes=1 << 20, log_retention_bytes=1 << 22)

    spec = fill_in(bare, defaults, 3)
    full = fill_in(GOOD, defaults, 3)

    assert (spec.grace_s, spec.log_retention_bytes, spec.log_segment_bytes) == (7, 1 << 22, 1 << 20)
    assert (full.grace_s, full.log_retention_bytes) == (0.0, 100 << 20)


def test_a_job_knows_itself_by_its_environment() -> None:
    """Id, name and uid are the server's, whatever was inherited from a job that submits jobs."""
    inherited = {"AGENTCTL_JOB_ID": "1", "AGENTCTL_JOB_UID": "x", "AGENTCTL_JOB_NAME": "outer"}

    spec = fill_in(replace(GOOD, environment=inherited), Defaults(), 3)

    assert spec.environment == {
        "PYTHONUNBUFFERED": "1",
        "AGENTCTL_JOB_ID": "3",
        "AGENTCTL_JOB_NAME": "train 1",
        "AGENTCTL_JOB_UID": spec.uid,
    }
    assert len(spec.uid) == 32


def test_python_buffers_if_the_user_says_so() -> None:
    """PYTHONUNBUFFERED is a default, not a rule."""
    spec = fill_in(replace(GOOD, environment={"PYTHONUNBUFFERED": ""}), Defaults(), 3)

    assert spec.environment["PYTHONUNBUFFERED"] == ""
