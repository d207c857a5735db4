"""The policy on disk: a warden without a server guards as it was told last."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from agentd.core.contract import SetGuard
from agentd.core.guard.model import GuardPolicy, Mark, Marks
from agentd.warden.guard import papers

ORDER = SetGuard(
    enabled=True,
    dry_run=True,
    pause_limit_s=30.0,
    warn=(20.0, 4 << 30),
    pause=(10.0, 3 << 30),
    term=(5.0, 2 << 30),
    kill=(2.0, 1 << 30),
)
POLICY = GuardPolicy(
    enabled=True,
    dry_run=True,
    marks=Marks(Mark(20.0, 4 << 30), Mark(10.0, 3 << 30), Mark(5.0, 2 << 30), Mark(2.0, 1 << 30)),
    pause_limit_s=30.0,
)


def test_the_policy_is_read_back(tmp_path: Path) -> None:
    """For the owner's eyes alone, and without a trace of how it was written."""
    path = str(tmp_path / "guard.json")

    papers.write_policy(path, ORDER)

    assert papers.read_policy(path) == POLICY
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["guard.json"]


@pytest.mark.parametrize("data", [b"", b"noise", b"[]", b"{}", b'{"enabled": true}', b"\xff"])
def test_without_a_policy_that_makes_sense_the_default_holds(tmp_path: Path, data: bytes) -> None:
    """A guard that guards by default is better than none."""
    (tmp_path / "guard.json").write_bytes(data)

    assert papers.read_policy(str(tmp_path / "guard.json")) == GuardPolicy()
    assert papers.read_policy(str(tmp_path / "none")) == GuardPolicy()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("enabled", "no"),
        ("warn", ["a", "b"]),
        ("pause", [50.0, 8 << 30]),
        ("kill", [0, 0]),
        ("pause_limit_s", "soon"),
        ("pause_limit_s", -1),
    ],
)
def test_a_policy_of_which_a_field_makes_no_sense_is_none(
    tmp_path: Path, field: str, value: object
) -> None:
    """Whoever has written it: a mark of the wrong type would fail at each look."""
    path = tmp_path / "guard.json"
    papers.write_policy(str(path), ORDER)
    path.write_text(json.dumps({**json.loads(path.read_bytes()), field: value}), encoding="utf-8")

    assert papers.read_policy(str(path)) == GuardPolicy()


def test_a_policy_that_cannot_be_written_leaves_the_last_one(tmp_path: Path) -> None:
    """It holds for this warden; the caller says what is wrong."""
    path = str(tmp_path / "guard.json")
    papers.write_policy(path, ORDER)
    (tmp_path / "guard.json.tmp").mkdir()

    with pytest.raises(OSError, match=r"\[Errno"):
        papers.write_policy(path, ORDER)

    assert papers.read_policy(path) == POLICY
