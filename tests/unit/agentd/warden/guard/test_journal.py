"""What the guard writes down before it acts: read back by the next warden, or by nobody."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from agentd.core.guard.model import Level, Trigger, Verdict
from agentd.system.clock import boot_id
from agentd.warden.guard import journal
from agentd.warden.guard.journal import Entry, Journal, Phase

VERDICT = Verdict(
    job_id=7,
    trigger=Trigger.HOST,
    level=Level.TERM,
    held_bytes=3 << 30,
    freeable_bytes=2 << 30,
    limit_bytes=None,
    rate_bytes_per_s=1 << 30,
    host_total_bytes=24 << 30,
    host_available_bytes=1 << 30,
    host_rate_bytes_per_s=1 << 30,
)
FROZEN = Entry(Phase.FROZEN, 5)
ENDING = Entry(Phase.TERMINATING, 6, VERDICT, 1_700_000_000_000_000_000)


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> str:
    """Return where the state is to be."""
    return str(tmp_path / "guard.state")


def test_the_next_warden_reads_what_the_last_one_wrote(path: str) -> None:
    """Whom it froze, whom it is ending, and why."""
    first = Journal(path)
    first.note(7, ENDING)
    first.note(8, FROZEN)
    first.note(9, FROZEN)
    first.drop(9)

    assert Journal(path).entries == {7: ENDING, 8: FROZEN}
    assert os.stat(path).st_mode & 0o777 == 0o600


def test_a_short_state_after_a_long_one_is_whole(path: str) -> None:
    """What the longer one has left behind it does not count."""
    first = Journal(path)
    for job_id in range(30):
        first.note(job_id, ENDING)
    for job_id in range(29):
        first.drop(job_id)

    assert Journal(path).entries == {29: ENDING}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"noise",
        b"[]\n",
        b'{"version": 2, "boot_id": "%s", "jobs": {}}\n' % boot_id().encode(),
        b'{"version": 1, "boot_id": "another", "jobs": {"7": {}}}\n',
        b'{"version": 1, "boot_id": "%s", "jobs": {"7": {"phase": "x"}}}\n' % boot_id().encode(),
        b'{"version": 1, "boot_id": "%s", "jobs": {"x": 1}}\n' % boot_id().encode(),
    ],
)
def test_what_makes_no_sense_is_nothing(path: str, data: bytes) -> None:
    """And the state is kept from then on."""
    Path(path).write_bytes(data)
    first = Journal(path)
    assert first.entries == {}

    first.note(7, FROZEN)

    assert Journal(path).entries == {7: FROZEN}


def test_one_entry_that_makes_no_sense_hides_no_other(path: str) -> None:
    """A warden of another version may have written it."""
    Journal(path).note(7, FROZEN)
    body = json.loads(Path(path).read_bytes().partition(b"\n")[0])
    body["jobs"]["8"] = {"phase": "unheard of"}
    Path(path).write_bytes(json.dumps(body).encode() + b"\n")

    assert Journal(path).entries == {7: FROZEN}


def test_a_state_that_cannot_be_kept_keeps_nobody_from_acting(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is said once, and everything else works."""
    (tmp_path / "guard.state").mkdir()

    kept = Journal(str(tmp_path / "guard.state"))
    kept.note(7, FROZEN)
    kept.drop(7)

    assert capfd.readouterr().err.count("cannot keep") == 1


def test_a_verdict_says_what_why_and_with_which_numbers(tmp_path: Path) -> None:
    """And later what came back."""
    directory = str(tmp_path)

    assert journal.write_verdict(directory, "terminate", VERDICT, "stopped by the guard: …")
    journal.add_outcome(directory, 2 << 30, 300_000_000, 3 << 30)

    body = json.loads((tmp_path / "verdict.json").read_bytes())
    assert (body["action"], body["reason"]) == ("terminate", "stopped by the guard: …")
    assert body["boot_id"] == boot_id()
    assert (body["job_id"], body["held_bytes"], body["trigger"]) == (7, 3 << 30, "host memory")
    assert body["after"] == {
        "freed_bytes": 2 << 30,
        "took_ns": 300_000_000,
        "host_available_bytes": 3 << 30,
    }
    assert sorted(os.listdir(directory)) == ["verdict.json"]


def test_no_verdict_can_be_written_where_there_is_no_directory(tmp_path: Path) -> None:
    """The job was removed, or the disk is gone: nothing is raised."""
    gone = str(tmp_path / "gone")

    assert not journal.write_verdict(gone, "kill", VERDICT, "")
    journal.add_outcome(gone, 0, 0, 0)

    (tmp_path / "verdict.json").write_bytes(b"noise")
    journal.add_outcome(str(tmp_path), 0, 0, 0)
    assert (tmp_path / "verdict.json").read_bytes() == b"noise"
