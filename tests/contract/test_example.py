"""The example is a real program: it learns, resumes exactly, and fails when asked."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

TRAIN = str(Path(__file__).resolve().parents[2] / "examples/train.py")


def _train(directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, TRAIN, *options]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)


def test_it_learns(tmp_path: Path) -> None:
    """Forty epochs lower the loss, and the last line says how well it did."""
    lines = _train(tmp_path, "--epochs", "40").stdout.splitlines()
    losses = [float(line.split("loss ")[1].split()[0]) for line in lines if "loss" in line]

    assert losses[-1] < losses[0] / 2
    assert lines[-1].startswith("done: ")


def test_a_resumed_run_equals_one_that_was_never_stopped(tmp_path: Path) -> None:
    """SIGTERM in the middle, a second start: the same network to the last digit."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    _train(tmp_path / "a", "--epochs", "30")

    command = [sys.executable, TRAIN, "--epochs", "30"]
    with subprocess.Popen(command, cwd=tmp_path / "b", stdout=subprocess.PIPE) as stopped:
        assert stopped.stdout is not None
        assert stopped.stdout.readline() == b"starting fresh\n"
        stopped.send_signal(signal.SIGTERM)
        assert b"checkpoint in" in stopped.stdout.read()
    assert stopped.returncode == 143
    assert _train(tmp_path / "b", "--epochs", "30").stdout.startswith("resuming after epoch")

    name = "train-checkpoint.json"
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_it_fails_when_asked(tmp_path: Path) -> None:
    """With --fail-at-epoch it stops there with status 3."""
    failed = _train(tmp_path, "--epochs", "5", "--fail-at-epoch", "2")

    assert failed.returncode == 3
    assert "epoch    1/5" in failed.stdout
    assert "epoch    2/5" not in failed.stdout
