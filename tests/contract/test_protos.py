"""The wire contract: generated freshly, in buf's style, never broken."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROTOS = ROOT / "protos"
#: FileDescriptorSet of the last release: `make baseline`, when a version is tagged.
BASELINE = PROTOS / "baseline.binpb"
BUF = Path(sys.executable).parent / "buf"


def _buf(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BUF), *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_stubs_are_what_the_pinned_generator_makes() -> None:
    """The checked-in stubs equal what protos/generate.py makes of the protos."""
    check = [sys.executable, str(PROTOS / "generate.py"), "--check"]
    made = subprocess.run(check, capture_output=True, text=True, check=False)

    assert (made.returncode, made.stderr) == (0, "")


def test_protos_follow_the_buf_style_guide() -> None:
    """Buf's STANDARD rules find nothing."""
    linted = _buf("lint", "protos")

    assert (linted.returncode, linted.stdout + linted.stderr) == (0, "")


def test_protos_break_no_peer_of_the_last_release() -> None:
    """Buf finds no change that a peer built from the last release would not understand."""
    compared = _buf("breaking", "protos", "--against", str(BASELINE))

    assert (compared.returncode, compared.stdout + compared.stderr) == (0, "")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("string version = 1;", "string version = 21;"),
        ("uint32 api_level = 2;", ""),
        ("rpc GetAgentInfo(", "rpc GetAgent("),
    ],
    ids=["renumbered", "removed", "renamed"],
)
def test_the_breaking_check_bites(tmp_path: Path, old: str, new: str) -> None:
    """A renumbered or removed field and a renamed RPC are each found."""
    shutil.copytree(PROTOS, tmp_path / "protos")
    service = tmp_path / "protos/agentapi/v1/agent_service.proto"
    assert old in service.read_text()
    service.write_text(service.read_text().replace(old, new))

    compared = _buf("breaking", str(tmp_path / "protos"), "--against", str(BASELINE))

    assert compared.returncode != 0
    assert "agent_service.proto" in compared.stdout
