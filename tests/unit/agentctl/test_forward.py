"""What was typed after `forward`, and which local port it gets."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from agentctl.errors import InvalidSpecError, UnsafeDirectoryError
from agentctl.forward.places import Memory, candidates, listen
from agentctl.forward.request import Wanted, parse
from agentctl.ports import TcpPlace, UnixPlace


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("train", Wanted("train", None, None)),
        ("7", Wanted("7", None, None)),
        ("1023", Wanted("1023", None, None)),
        ("7:", Wanted("7", None, None)),
        ("2000:", None),
        ("6006", Wanted("", TcpPlace(6006), None)),
        (":80", Wanted("", TcpPlace(80), None)),
        ("8888:6006", Wanted("", TcpPlace(6006), 8888)),
        ("8080:80", Wanted("", TcpPlace(80), 8080)),
        ("train:8080", Wanted("train", TcpPlace(8080), None)),
        ("7:8080", Wanted("7", TcpPlace(8080), None)),
        ("9000:train:8080", Wanted("train", TcpPlace(8080), 9000)),
        (":2000:8080", Wanted("2000", TcpPlace(8080), None)),
        ("train:/run/a:b", Wanted("train", UnixPlace(b"/run/a:b"), None)),
        ("9000:train:/run/x", Wanted("train", UnixPlace(b"/run/x"), 9000)),
        ("", None),
        (":", None),
        ("train:0", None),
        ("train:x", None),
        ("70000", None),
        ("9000:", None),
        ("99999:train:80", None),
        ("²²²²", Wanted("²²²²", None, None)),
    ],
)
def test_a_target_is_read_in_one_way(text: str, wanted: Wanted | None) -> None:
    """A small number is a job, a large one a port; what is neither is wrong use."""
    if wanted is None:
        with pytest.raises(InvalidSpecError, match="LOCAL:JOB:PORT"):
            parse(text)
    else:
        assert parse(text) == wanted


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("99999", "99999 is no port (1 to 65535); say JOB, "),
        ("web:99999", "'web:99999': 99999 is no port (1 to 65535); say JOB, "),
        ("web:x", "'web:x': 'x' is no port (1 to 65535); say JOB, "),
        ("/tmp/x.sock", "/tmp/x.sock is a path: name its job, JOB:/tmp/x.sock"),
        (":/tmp/x.sock", "/tmp/x.sock is a path: name its job, JOB:/tmp/x.sock"),
        ("9000:/run/x", "/run/x is a path: name its job, 9000:JOB:/run/x"),
    ],
)
def test_what_is_no_target_is_said_once(text: str, complaint: str) -> None:
    """What is wrong, and how it is said instead."""
    with pytest.raises(InvalidSpecError) as error:
        parse(text)
    assert str(error.value).startswith(complaint)


@pytest.mark.parametrize(
    ("wanted", "kept", "number", "first"),
    [
        (9000, 8001, 8080, [9000, 9001]),
        (None, 8001, 8080, [8001, 8002]),
        (None, None, 8080, [8080, 8081]),
        (None, None, 80, [80, 8080, 8081]),
        (None, None, 65535, [65535, 0]),
        (None, None, None, [0]),
    ],
)
def test_the_local_port_is_asked_for_kept_or_the_same(
    wanted: int | None, kept: int | None, number: int | None, first: list[int]
) -> None:
    """In this order, then the next ones, and any at the very last."""
    tried = candidates(wanted, kept, number)

    assert tried[: len(first)] == first
    assert tried[-1] == 0
    assert len(set(tried)) == len(tried)


def test_the_next_free_port_is_taken() -> None:
    """A port in use is passed over."""
    with listen([0]) as first:
        number = first.getsockname()[1]
        with listen([number, 0]) as second:
            assert second.getsockname()[1] not in {number, 0}
        with pytest.raises(OSError, match="in use"):
            listen([number])


def test_a_port_is_kept_in_a_file_of_ours_alone(tmp_path: Path) -> None:
    """Private, replaced whole, and the oldest are forgotten first."""
    directory = str(tmp_path / "state")
    memory = Memory(directory)
    assert memory.recall("gpu1 job web port 80") is None
    for number in range(600):
        memory.keep(f"key {number}", 2000 + number)

    again = Memory(directory)
    assert (again.recall("key 0"), again.recall("key 599")) == (None, 2599)
    assert os.stat(f"{directory}/forwards.json").st_mode & 0o077 == 0
    os.chmod(directory, 0o740)
    with pytest.raises(UnsafeDirectoryError):
        memory.keep("key", 1)


@pytest.mark.parametrize("content", ["", "[]", '{"key": "x"}', '{"key": 70000}', '{"key": true}'])
def test_a_memory_that_makes_no_sense_is_none(tmp_path: Path, content: str) -> None:
    """It is a convenience, and no reason to fail."""
    (tmp_path / "forwards.json").write_text(content, encoding="ascii")

    assert Memory(str(tmp_path)).recall("key") is None


def test_a_listener_is_on_loopback() -> None:
    """And on nothing else."""
    with listen([0]) as listener:
        assert listener.family is socket.AF_INET
        assert listener.getsockname()[0] == "127.0.0.1"
