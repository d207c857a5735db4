"""Several hosts: who is asked, who is waited for, and what is remembered."""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from agentctl.errors import (
    HostUnreachableError,
    InvalidSpecError,
    JobNotFoundError,
    TryAgainError,
)
from agentctl.model import Job, JobState
from agentctl.render.color import Palette
from agentctl.render.jobs import job_table_of_hosts
from agentctl.several.asking import Answered, Silent, ask_all, do_all
from agentctl.several.cache import HostCache
from agentctl.several.listing import Filter, put_together
from agentctl.several.references import (
    Reference,
    explained,
    read_reference,
    read_references,
)
from tests.unit.agentctl.samples import AT as NOW
from tests.unit.agentctl.samples import sample_job


def test_who_is_late_is_not_waited_for() -> None:
    """What came is there, in the order asked; an error is no answer."""
    never = threading.Event()

    def ask(host: str) -> str:
        if host == "late":
            never.wait(30)
        if host == "dead":
            raise HostUnreachableError("no route")
        return host.upper()

    began_s = time.monotonic()
    answers = ask_all(ask, {"late": 0.2, "a": 0.2, "dead": 0.2, "b": 0.2})
    assert time.monotonic() - began_s < 5
    never.set()
    late, first, dead, last = answers
    assert (first, last) == (Answered("a", "A"), Answered("b", "B"))
    assert isinstance(late, Silent)
    assert isinstance(late.why, TryAgainError)
    assert isinstance(dead, Silent)
    assert str(dead.why) == "no route"


def test_a_fault_of_ours_is_raised() -> None:
    """Not taken for silence."""

    def ask(_: str) -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ask_all(ask, {"a": 5.0})
    with pytest.raises(ZeroDivisionError):
        do_all([lambda: 1 // 0])


def test_everything_is_done_at_once() -> None:
    """Results and errors stand in the order given."""
    meeting = threading.Barrier(2, timeout=10)

    def fail() -> int:
        meeting.wait()
        raise TryAgainError("later")

    results = do_all([meeting.wait, fail])
    assert isinstance(results[0], int)
    assert isinstance(results[1], TryAgainError)


def sample(
    number: int,
    state: JobState = JobState.ENDED,
    name: str = "train",
    labels: dict[str, str] | None = None,
) -> Job:
    """Return a job of gpu1."""
    return replace(sample_job(state, number), host="gpu1", name=name, labels=labels or {})


def test_what_is_remembered_comes_back_as_it_was(tmp_path: Path) -> None:
    """Every field of the JSON form."""
    cache = HostCache(str(tmp_path / "hosts"))
    assert cache.seen("gpu1") is None
    jobs = [sample(2, state=JobState.RUNNING), sample(1)]
    cache.keep("gpu1", jobs, NOW)
    seen = cache.seen("gpu1")
    assert seen is not None
    assert seen.at == NOW
    assert [one.id for one in seen.jobs] == [2, 1]
    assert seen.jobs[0].argv == jobs[0].argv
    assert seen.jobs[0].submitted_at == jobs[0].submitted_at
    assert os.listdir(tmp_path / "hosts") == ["gpu1.json"]
    cache.forget("gpu1")
    assert cache.seen("gpu1") is None


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "7", '{"format": 2}', '{"format": 1, "seen_at": "x", "jobs": []}',
                '{"format": 1, "seen_at": "2025-01-01T00:00:00", "jobs": []}',
                '{"format": 1, "seen_at": "2025-01-01T00:00:00Z", "jobs": [{"id": 1}]}']
)  # fmt: skip
def test_a_file_that_cannot_be_understood_is_none(tmp_path: Path, content: str) -> None:
    """Nobody is told: it is a cache."""
    directory = tmp_path / "hosts"
    directory.mkdir(0o700)
    (directory / "gpu1.json").write_text(content, encoding="utf-8")
    assert HostCache(str(directory)).seen("gpu1") is None


def test_nothing_is_believed_that_others_could_have_written(tmp_path: Path) -> None:
    """Nor is anything written where they could read it."""
    cache = HostCache(str(tmp_path / "hosts"))
    cache.keep("gpu1", [sample(1)], NOW)
    os.chmod(tmp_path / "hosts", 0o755)  # noqa: S103  # the fault
    assert cache.seen("gpu1") is None
    cache.keep("gpu2", [sample(1)], NOW)
    assert not (tmp_path / "hosts" / "gpu2.json").exists()


def test_no_room_for_the_cache_is_nobodys_trouble(tmp_path: Path) -> None:
    """The listing was printed already."""
    (tmp_path / "file").write_text("", encoding="ascii")
    HostCache(str(tmp_path / "file" / "hosts")).keep("gpu1", [sample(1)], NOW)


def test_the_same_jobs_pass_as_at_the_agent() -> None:
    """By state, name, label, and only the newest of those that are over."""
    jobs = [
        sample(4, state=JobState.RUNNING, name="train", labels={"a": "1"}),
        sample(3, name="train"),
        sample(2, name="train"),
        sample(1, state=JobState.RUNNING, name="x"),
    ]
    assert [one.id for one in Filter(recent=1).of(jobs)] == [4, 3, 1]
    assert [one.id for one in Filter(recent=0).of(jobs)] == [4, 1]
    assert [one.id for one in Filter().of(jobs)] == [4, 3, 2, 1]
    assert [one.id for one in Filter(states=("running",), name="train").of(jobs)] == [4]
    assert [one.id for one in Filter(labels={"a": "1"}).of(jobs)] == [4]


def test_a_silent_host_is_shown_as_it_was_seen(tmp_path: Path) -> None:
    """What ran is told with its age, in no colour of an end; what was over is over."""
    cache = HostCache(str(tmp_path / "hosts"))
    cache.keep("gpu1", [sample(2, state=JobState.RUNNING), sample(1)], NOW)
    listing = put_together(
        [Silent("gpu1", TryAgainError("x")), Silent("new", TryAgainError("y"))],
        {"gpu1": cache.seen("gpu1"), "new": None},
        Filter(),
    )
    assert [(one.host, one.seen_at) for one in listing.absent] == [("gpu1", NOW), ("new", None)]
    table = job_table_of_hosts(
        listing.jobs, {"gpu1": NOW}, NOW + timedelta(minutes=3), Palette(enabled=False), None
    )
    assert table[0].startswith("HOST")
    assert "running 3m00s ago" in table[1]
    assert " ago" not in table[2]


def test_a_job_names_its_host_only_if_there_is_one() -> None:
    """A name may hold a colon."""
    assert read_reference("gpu1:7", {"gpu1"}.__contains__) == Reference("gpu1", "7")
    assert read_reference("gpu1:a:b", {"gpu1"}.__contains__) == Reference("gpu1", "a:b")
    for text in ("other:7", ":7", "gpu1:", "7"):
        assert read_reference(text, {"gpu1"}.__contains__) == text


def test_a_job_of_several_hosts_must_say_which() -> None:
    """There is no guess."""
    assert read_references(["7", "local:8"], ["gpu1"]) == [
        Reference("gpu1", "7"),
        Reference("local", "8"),
    ]
    with pytest.raises(InvalidSpecError, match="gpu1:7"):
        read_references(["7"], ["gpu1", "gpu2"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gpu7:1", "none; gpu7 is no host, see: agentctl host ls"),
        ("local:train", "none"),
        ("train", "none"),
        (":train", "none"),
        ("train:", "none"),
    ],
)
def test_an_unknown_host_is_named_beside_the_unknown_job(
    text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name may hold a colon: either may be what was mistyped."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert str(explained(JobNotFoundError("none"), text)) == said


def test_the_file_holds_what_ls_prints(tmp_path: Path) -> None:
    """And nothing more: no environment, no secret."""
    HostCache(str(tmp_path / "h")).keep("gpu1", [sample(1)], NOW)
    content = json.loads((tmp_path / "h" / "gpu1.json").read_text("utf-8"))
    assert set(content) == {"format", "seen_at", "jobs"}
    assert "env" not in content["jobs"][0]
