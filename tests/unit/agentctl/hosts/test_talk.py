"""The conversation with an installer, when what answers is none."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from agentctl.errors import AgentctlError, HostUnreachableError, TryAgainError
from agentctl.hosts import download
from agentctl.hosts.remote import peer
from agentctl.hosts.talk import Talk, complaint_of
from agentctl.hosts.wheels import Wheel
from agentctl.hosts.wire import Limits
from agentctl.link.ssh.master import Master

#: Reads its sources as the real one does, then does what the test says with `mark`.
_SERVER = """\
#!{python} -IS
import json, os, re, sys, time
size = int(re.search("read.([0-9]+).", sys.argv[-1])[1])
source = sys.stdin.buffer.read(size).decode()
mark = re.search(r"main.'([0-9a-f]+)'.", source)[1]
sys.stdin.buffer.readline()
def tell(line):
    print(mark, line if isinstance(line, str) else json.dumps(line), flush=True)
{script}
"""
_TIGHT = Limits(silence_s=1.0, all_s=30.0, end_s=0.1)


def _ask(directory: Path, script: str, limits: Limits = _TIGHT) -> dict[str, object]:
    """Ask a server whose Python is `script`; ssh is a program that runs the command here."""
    ssh, python = directory / "ssh", directory / "python3"
    ssh.write_text('#!/bin/sh\nfor last; do :; done\neval "$last"\n', encoding="utf-8")
    python.write_text(_SERVER.format(python=sys.executable, script=script), encoding="utf-8")
    for program in (ssh, python):
        program.chmod(0o700)
    master = Master("gpu1", (str(ssh),), environ={"XDG_RUNTIME_DIR": str(directory)})

    def supply(_what: str, _why: str) -> Sequence[Wheel]:
        return (Wheel("a.whl", b"x" * (1 << 20)),)

    return Talk(master, str(python), supply, lambda _text: None, limits).ask({"ask": "install"})


def test_noise_and_signs_of_life_are_passed_over(tmp_path: Path) -> None:
    """What comes without the mark is no answer; a beat is none either."""
    done = _ask(tmp_path, 'print("welcome"); tell({"event": "beat"}); tell({"event": "done"})')

    assert done == {"event": "done"}


@pytest.mark.parametrize(
    "script",
    [
        "tell('{')",
        "tell('[]')",
        "tell('3')",
        "tell('[' * 100000)",
        "tell({})",
        "tell({'event': ['say']})",
        "tell({'event': 'dance'})",
        "tell({'event': 'need'})",
        "tell({'event': 'need', 'what': ['own']})",
        "tell({'event': 'need', 'what': 'passwords'})",
        "[tell({'event': 'need', 'what': 'own'}) for _ in range(2)]; sys.stdin.buffer.read()",
    ],
)
def test_an_answer_of_no_installer_is_one_clear_error(tmp_path: Path, script: str) -> None:
    """Bad JSON, missing keys, wrong types, the same wish twice."""
    with pytest.raises(HostUnreachableError, match="gpu1 does not answer as its installer should"):
        _ask(tmp_path, script)


@pytest.mark.parametrize(
    "script",
    [
        "while True: os.write(1, b'x' * 65536)",
        "while True: os.write(1, b'welcome' * 1000 + bytes([10]))",
        "while True: tell({'event': 'say', 'text': 'x' * 1000})",
        "while True: os.write(2, b'x' * 65536)",
    ],
)
def test_a_flood_is_cut_off(tmp_path: Path, script: str) -> None:
    """A line without an end, lines without an end, complaints without an end."""
    limits = Limits(silence_s=20.0, end_s=0.1)
    with pytest.raises(HostUnreachableError, match="gpu1 says too much"):
        _ask(tmp_path, script, limits)


@pytest.mark.parametrize(
    "script",
    [
        "time.sleep(60)",
        "tell({'event': 'say', 'text': 'x'}); time.sleep(60)",
        # It asks, and never takes the wheel.
        "tell({'event': 'need', 'what': 'own'}); time.sleep(60)",
    ],
)
def test_silence_has_an_end(tmp_path: Path, script: str) -> None:
    """A server that says nothing more is given up."""
    with pytest.raises(TryAgainError, match=r"gpu1 has said nothing for 1 s.*run the same command"):
        _ask(tmp_path, script)


def test_signs_of_life_without_work_have_an_end(tmp_path: Path) -> None:
    """One that lives and never finishes is given up too."""
    limits = Limits(silence_s=5.0, all_s=1.0, end_s=0.1)
    with pytest.raises(TryAgainError, match="gpu1 was not done within 1 s"):
        _ask(tmp_path, "while True: tell({'event': 'beat'}); time.sleep(0.05)", limits)


def test_signs_of_life_are_waited_for(tmp_path: Path) -> None:
    """Work that takes longer than the silence allowed is no silence."""
    began_s = time.monotonic()
    _ask(
        tmp_path,
        "for _ in range(15): tell({'event': 'beat'}); time.sleep(0.1)\ntell({'event': 'done'})",
    )

    assert time.monotonic() - began_s > _TIGHT.silence_s


def test_an_installer_gives_signs_of_life() -> None:
    """The server's side tells again and again that it lives."""
    program = (
        "from agentctl.hosts.remote import peer\n"
        "peer._BEAT_EVERY_S = 0.01\n"
        "peer.Peer('5b1d', 0o22).keep_talking()\n"
    )
    command = [sys.executable, "-c", program]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as child:
        assert child.stdout is not None
        said = [child.stdout.readline() for _ in range(3)]
        child.kill()

    assert said == [b"\n", b'5b1d {"event": "beat"}\n', b'5b1d {"event": "beat"}\n']
    assert Limits().silence_s > 2 * peer._BEAT_EVERY_S


def test_the_server_waits_longer_than_a_download_may_take() -> None:
    """It asks for wheels that the client may have to fetch first."""
    assert download._DOWNLOAD_WITHIN_S + 60 < peer._ANSWER_WITHIN_S < Limits().all_s


@pytest.mark.parametrize("jobs", [None, 3, "x", {"a": 1}])
def test_a_complaint_with_wrong_types_is_a_complaint(jobs: object) -> None:
    """Whatever stands where a list of jobs should."""
    error = complaint_of({"event": "error", "kind": "jobs", "jobs": jobs}, "gpu1")

    assert isinstance(error, AgentctlError)
    assert "0 jobs on gpu1" in str(error)
