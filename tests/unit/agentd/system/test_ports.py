"""Listening sockets: the kernel's tables, and processes that listen."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from agentd.system.ports import (
    Listening,
    TcpPort,
    UnixPort,
    listening,
    parse_tcp,
    parse_unix,
    places_in,
)

_TCP = b"""\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 101 1
   1: 0100007F:22B8 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 102 1
   2: 0200A8C0:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 103 1
   3: 0100007F:22B8 0100007F:C350 01 00000000:00000000 00:00000000 00000000  1000        0 104 1
"""
_TCP6 = b"""\
  sl  local_address                         remote_address                        st ...
   0: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 0A - - - 0 0 105
   1: 00000000000000000000000001000000:1F91 00000000000000000000000000000000:0000 0A - - - 0 0 106
   2: 0000000000000000FFFF00000100007F:1F92 00000000000000000000000000000000:0000 0A - - - 0 0 107
"""
_UNIX = b"""\
Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00010000 0001 01 201 /run/a b.sock
0000000000000000: 00000002 00000000 00000000 0001 01 202 /run/connected.sock
0000000000000000: 00000002 00000000 00010000 0005 01 203 /run/packets.sock
0000000000000000: 00000002 00000000 00010000 0001 01 204 @abstract
0000000000000000: 00000002 00000000 00010000 0001 01 205 relative.sock
0000000000000000: 00000002 00000000 00010000 0001 01 206
"""


def test_only_what_listens_is_read_from_the_tables() -> None:
    """Any address is loopback; bytes stand as the kernel prints them on this machine's order."""
    assert list(parse_tcp(_TCP)) == [
        (101, TcpPort(8080, "127.0.0.1")),
        (102, TcpPort(8888, "127.0.0.1")),
        (103, TcpPort(80, "192.168.0.2")),
    ]
    assert list(parse_tcp(_TCP6)) == [
        (105, TcpPort(8080, "::1")),
        (106, TcpPort(8081, "::1")),
        (107, TcpPort(8082, "127.0.0.1")),
    ]
    assert list(parse_unix(_UNIX)) == [(201, UnixPort(b"/run/a b.sock"))]


def test_sockets_of_a_process_are_found(tmp_path: Path) -> None:
    """TCP by number, then unix sockets; a port on two addresses once, IPv4 preferred."""
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as unix, socket.socket() as idle:
        tcp.bind(("0.0.0.0", 0))  # noqa: S104  # the fact under test: shown as loopback
        idle.bind(("127.0.0.1", 0))
        unix.bind(f"{tmp_path}/x")
        tcp.listen()
        unix.listen()
        number = tcp.getsockname()[1]
        found = [one for one in listening([os.getpid()]) if one.place in _ours(number, tmp_path)]

    assert [one.place for one in found] == _ours(number, tmp_path)
    assert {one.pid for one in found} == {os.getpid()}
    assert isinstance(found[0], Listening)


def _ours(number: int, directory: Path) -> list[TcpPort | UnixPort]:
    return [TcpPort(number, "127.0.0.1"), UnixPort(os.fsencode(directory / "x"))]


@pytest.mark.parametrize("pid", [1 << 22, -1])
def test_a_process_that_is_not_there_listens_nowhere(pid: int) -> None:
    """It may have ended since it was listed."""
    assert listening([pid]) == []


_HEAD = b"Num       RefCount Protocol Flags    Type St Inode Path\n"


def _unix(inode: int, path: bytes) -> bytes:
    return b"0000000000000000: 00000002 00000000 00010000 0001 01 %d %s\n" % (inode, path)


def test_a_path_with_newlines_takes_nobodys_place() -> None:
    """Anybody may bind such a path, and all inodes are public."""
    tcp = b"head\n   0: 0100007F:1F90 00000000:0000 0A 0:0 0:0 0 0 0 77 1 0\n"
    forged = _unix(5, b"/tmp/x\n" + _unix(77, b"/tmp/evil").rstrip())
    again = _unix(6, b"/tmp/y\n" + _unix(9, b"/tmp/evil").rstrip())

    places = places_in([tcp], _HEAD + _unix(9, b"/home/ada/own") + forged + again)

    assert places[77] == TcpPort(8080, "127.0.0.1")
    assert UnixPort(b"/tmp/evil") not in places.values()


def test_a_line_that_is_none_is_passed_over() -> None:
    """It may be a part of a path."""
    odd = _unix(5, b"/tmp/x\na b c d e f g /tmp/z")

    assert places_in([], _HEAD + odd + _unix(8, b"/tmp/w")) == {
        5: UnixPort(b"/tmp/x"),
        8: UnixPort(b"/tmp/w"),
    }
