"""One job directory: made with all the room that its end needs."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agentd.core.job import (
    Cause,
    Ended,
    ExitStatus,
    FileOutput,
    Lost,
    MergedOutput,
    Output,
    ProcessId,
    ResourceUsage,
    SplitOutput,
    TerminalOutput,
)
from agentd.errors import RecordCorruptError
from agentd.system import jobdir, jobfiles, logdir, records
from agentd.system.records import PidRecord, StopRecord
from tests.unit.agentd.server.places import make_spec
from tests.unit.agentd.system.sandbox import fill, isolated, mount_tmpfs

SPEC = make_spec(7)
PID = PidRecord("boot", ProcessId(41, 900), ProcessId(42, 1000), 5, 6)
ENDED = Ended(5, 9, 4, ExitStatus(0), Cause.SELF, ResourceUsage(), "")
LONG = replace(ENDED, reason="because " * 300)
TOO_LONG = Lost(9, Cause.UNKNOWN, "nobody saw", None, tuple(range(10_000)))
STOP = StopRecord(Cause.USER, 99, "asked")
OUTPUTS: dict[str, tuple[Output, list[str]]] = {
    "merged": (MergedOutput(), ["out.end"]),
    "split": (SplitOutput(), ["err.end", "out.end"]),
    "files": (FileOutput("/tmp/out", None, append=False), []),
    "terminal": (TerminalOutput(80, 24), ["out.end"]),
}


@pytest.fixture(name="directory")
def _directory(tmp_path: Path) -> Iterator[str]:
    """Yield a job directory; afterwards nothing in it is for anybody else to read."""
    directory = f"{tmp_path}/7"
    jobdir.create(directory, SPEC)
    yield directory
    modes = {stat.S_IMODE(os.stat(f"{directory}/{name}").st_mode) for name in os.listdir(directory)}
    assert modes <= {0o600}
    assert stat.S_IMODE(os.stat(directory).st_mode) == 0o700


def write_pid(directory: str, record: PidRecord = PID) -> None:
    """Write the pidfile as a leader does."""
    descriptor = os.open(f"{directory}/{jobdir.PID}", os.O_WRONLY)
    jobdir.write_pid(descriptor, record)
    os.close(descriptor)


def write_stop(directory: str, record: StopRecord) -> None:
    """Note a stop as a shim does."""
    jobfiles.write_stop(directory, records.dump_stop(record))


@pytest.mark.parametrize(("output", "marks"), OUTPUTS.values(), ids=OUTPUTS.keys())
def test_a_new_directory_holds_the_spec_and_room_for_the_rest(
    tmp_path: Path, output: Output, marks: list[str]
) -> None:
    """Room is blocks on the disk, not a size; none for a log that the job does not have."""
    spec = replace(SPEC, output=output)

    jobdir.create(f"{tmp_path}/7", spec)

    assert jobdir.read_spec(f"{tmp_path}/7") == spec
    others = sorted({*os.listdir(tmp_path / "7")} - {"spec.json"})
    assert others == sorted([*marks, "exit.json.new", "pid"])
    for name in others:
        status = os.stat(tmp_path / "7" / name)
        assert status.st_blocks * 512 >= status.st_size >= 1024


def test_a_new_job_has_not_begun_and_is_not_over(directory: str) -> None:
    """No pid, no stop, no end, no byte written or lost."""
    assert jobdir.read_pid(directory) is None
    assert jobdir.read_stop(directory) is None
    assert jobdir.read_exit(directory) is None
    assert logdir.end_offset(directory, "out") == 0


def test_a_directory_is_made_once(directory: str) -> None:
    """An id that exists already is an error, and what stands there stays."""
    write_pid(directory)

    with pytest.raises(FileExistsError):
        jobdir.create(directory, SPEC)

    assert jobdir.read_pid(directory) == PID


@pytest.mark.root
@pytest.mark.parametrize("free", range(0, 9 * 4096, 4096))
@isolated
def test_a_full_disk_refuses_a_new_directory(tmp_path: Path, free: int) -> None:
    """Whatever is missing is missed at once; what exists is complete, with room for its end."""
    mount_tmpfs(str(tmp_path), "size=256k,mode=700")
    fill(f"{tmp_path}/ballast")
    os.truncate(f"{tmp_path}/ballast", os.stat(f"{tmp_path}/ballast").st_size - free)

    try:
        jobdir.create(f"{tmp_path}/7", SPEC)
    except OSError:
        assert jobdir.read_spec(f"{tmp_path}/7") is None
        return
    fill(f"{tmp_path}/ballast")
    write_pid(f"{tmp_path}/7")
    jobdir.write_exit(f"{tmp_path}/7", LONG)
    assert jobdir.read_exit(f"{tmp_path}/7") == LONG
    assert free > 0


def test_a_directory_without_a_spec_is_none(tmp_path: Path) -> None:
    """It was never completed, or never made: not corrupt."""
    assert jobdir.read_spec(str(tmp_path)) is None
    assert jobdir.read_pid(f"{tmp_path}/none") is None
    assert jobdir.read_stop(f"{tmp_path}/none") is None
    assert jobdir.read_exit(f"{tmp_path}/none") is None


def test_a_job_has_begun_once_its_pidfile_is_written(directory: str) -> None:
    """In place, so that the lock on it stays."""
    inode = os.stat(f"{directory}/pid").st_ino

    write_pid(directory)

    assert jobdir.read_pid(directory) == PID
    assert os.stat(f"{directory}/pid").st_ino == inode


def test_a_second_pidfile_leaves_nothing_of_the_first(directory: str) -> None:
    """The shorter one too."""
    write_pid(directory, replace(PID, boot_id="b" * 300))
    write_pid(directory)

    assert jobdir.read_pid(directory) == PID


def test_a_start_that_is_taken_back_never_was(directory: str) -> None:
    """And the job may be launched again."""
    write_pid(directory)

    jobfiles.clear_pid(directory)

    assert jobdir.read_pid(directory) is None
    write_pid(directory)
    assert jobdir.read_pid(directory) == PID


def test_a_stop_is_noted_and_replaced(directory: str) -> None:
    """The second one counts, the shorter one too."""
    write_stop(directory, STOP)
    assert jobdir.read_stop(directory) == STOP

    write_stop(directory, replace(STOP, reason=""))

    assert jobdir.read_stop(directory) == replace(STOP, reason="")


@pytest.mark.parametrize("final", [ENDED, LONG, TOO_LONG], ids=["short", "long", "too long"])
def test_an_exit_record_takes_the_place_of_its_room(directory: str, final: Ended | Lost) -> None:
    """One file, of the record's own size."""
    jobdir.write_exit(directory, final)

    assert jobdir.read_exit(directory) == final
    assert "exit.json.new" not in os.listdir(directory)


@pytest.mark.root
@isolated
def test_an_end_needs_no_room_on_a_full_disk(tmp_path: Path) -> None:
    """Nor does the pidfile, nor taking it back, nor the mark where bytes were lost."""
    mount_tmpfs(str(tmp_path), "size=256k,mode=700")
    directory = f"{tmp_path}/7"
    jobdir.create(directory, SPEC)
    fill(f"{tmp_path}/ballast")

    write_pid(directory)
    jobfiles.clear_pid(directory)
    write_pid(directory)
    with open(f"{directory}/out.end", "r+b", buffering=0) as mark:
        mark.write(b"%-64d" % 77)
    jobdir.write_exit(directory, LONG)

    assert jobdir.read_pid(directory) == PID
    assert logdir.discarded_to(directory, "out") == 77
    assert jobdir.read_exit(directory) == LONG


@pytest.mark.root
@isolated
def test_an_exit_record_that_does_not_fit_may_be_tried_again(tmp_path: Path) -> None:
    """Nothing that looks like one stands there meanwhile."""
    mount_tmpfs(str(tmp_path), "size=256k,mode=700")
    directory = f"{tmp_path}/7"
    jobdir.create(directory, SPEC)
    fill(f"{tmp_path}/ballast")

    for _ in range(3):
        with pytest.raises(OSError, match="No space"):
            jobdir.write_exit(directory, TOO_LONG)
        assert jobdir.read_exit(directory) is None

    jobdir.write_exit(directory, ENDED)
    assert jobdir.read_exit(directory) == ENDED


@pytest.mark.root
@isolated
def test_an_exit_record_whose_room_was_taken_away_may_be_tried_again(tmp_path: Path) -> None:
    """A cleaner was here; once there is space, the record is made without its room."""
    mount_tmpfs(str(tmp_path), "size=256k,mode=700")
    directory = f"{tmp_path}/7"
    jobdir.create(directory, SPEC)
    os.unlink(f"{directory}/exit.json.new")
    fill(f"{tmp_path}/ballast")

    with pytest.raises(OSError, match="No space"):
        jobdir.write_exit(directory, ENDED)
    os.unlink(f"{tmp_path}/ballast")

    jobdir.write_exit(directory, ENDED)
    assert jobdir.read_exit(directory) == ENDED


READERS: dict[str, Callable[[str], object]] = {
    "spec.json": jobdir.read_spec,
    "pid": jobdir.read_pid,
    "stop.json": jobdir.read_stop,
    "exit.json": jobdir.read_exit,
}


@pytest.mark.parametrize("name", READERS)
def test_every_torn_record_is_corrupt(directory: str, name: str) -> None:
    """Wherever it was cut, and noise too; never a traceback of another kind, never a guess."""
    write_pid(directory)
    write_stop(directory, STOP)
    jobdir.write_exit(directory, ENDED)
    path = Path(directory, name)
    whole = path.read_bytes().rstrip()

    for torn in [*(whole[:size] for size in range(1, len(whole))), b"\xff" * 100]:
        path.write_bytes(torn)
        with pytest.raises(RecordCorruptError):
            READERS[name](directory)


def test_a_record_of_any_length_is_read_whole(tmp_path: Path) -> None:
    """An environment may have megabytes."""
    spec = replace(SPEC, environment={"A": "x" * 3_000_000})

    jobdir.create(f"{tmp_path}/7", spec)

    assert jobdir.read_spec(f"{tmp_path}/7") == spec
