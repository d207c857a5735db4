"""On which ports some processes listen: /proc/net (proc(5)) against their descriptors.

Only what this process can reach counts: sockets of its own network namespace, and unix sockets
that have an absolute path.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from agentd.system.proc import read_whole

# Fields of a line of /proc/net/tcp.
_TCP_LOCAL = 1
_TCP_STATE = 3
_TCP_INODE = 9
#: TCP_LISTEN of the kernel's enum.
_LISTEN = b"0A"
# Fields of a line of /proc/net/unix; the path is what is left.
_UNIX_FLAGS = 3
_UNIX_TYPE = 4
_UNIX_INODE = 6
_UNIX_PATH = 7
#: __SO_ACCEPTCON: it listens.
_ACCEPTS = 1 << 16
_SOCKET_LINK = "socket:["


@dataclass(frozen=True, slots=True)
class TcpPort:
    """A port and the address to connect to: loopback where the socket takes any address."""

    number: int
    address: str


@dataclass(frozen=True, slots=True)
class UnixPort:
    """A listening stream socket with a name in the file system."""

    path: bytes


Place = TcpPort | UnixPort


@dataclass(frozen=True, slots=True)
class Listening:
    """One place and a process that listens there."""

    place: Place
    pid: int
    process_name: str


def listening(pids: Iterable[int]) -> list[Listening]:
    """Return where these processes listen, TCP by number first, then unix sockets by path.

    A port on several addresses is listed once, IPv4 loopback preferred. A scan of their descriptors
    and two files: a millisecond or so for a process with hundreds.

    Raises:
        OSError: /proc cannot be read.

    """
    places = _places()
    namespace = os.readlink("/proc/self/ns/net")
    found: dict[int | bytes, Listening] = {}
    for pid in pids:
        for inode in _socket_inodes(pid, namespace):
            place = places.get(inode)
            if place is not None:
                _keep_best(found, Listening(place, pid, _name(pid)))
    return sorted(found.values(), key=lambda one: _order(one.place))


def _keep_best(found: dict[int | bytes, Listening], one: Listening) -> None:
    key = one.place.number if isinstance(one.place, TcpPort) else one.place.path
    known = found.get(key)
    if known is None or _order(one.place) < _order(known.place):
        found[key] = one


def _order(place: Place) -> tuple[bool, int, int, bytes]:
    match place:
        case TcpPort(number, address):
            preferred = {"127.0.0.1": 0, "::1": 1}.get(address, 2)
            return False, number, preferred, address.encode()
        case UnixPort(path):
            return True, 0, 0, path


def _places() -> dict[int, Place]:
    tables = []
    for name in ("tcp", "tcp6"):
        try:
            tables.append(read_whole(f"/proc/net/{name}"))
        except FileNotFoundError:
            # A kernel without IPv6.
            continue
    return places_in(tables, read_whole("/proc/net/unix"))


def places_in(tcp_tables: Iterable[bytes], unix_table: bytes) -> dict[int, Place]:
    """Return every listening socket of this network namespace by its inode. Pure.

    The kernel prints paths of unix sockets as they are: a newline in anybody's path makes a line
    of his choice. So such a line never takes the place of another; and before a unix socket is
    spoken to, its other end has to be asked who it is (SO_PEERCRED).
    """
    tcp: dict[int, Place] = {}
    for table in tcp_tables:
        tcp.update(parse_tcp(table))
    unix: dict[int, Place] = {}
    doubtful: set[int] = set()
    for inode, place in parse_unix(unix_table):
        if inode in unix:
            doubtful.add(inode)
        unix[inode] = place
    return {inode: place for inode, place in unix.items() if inode not in doubtful} | tcp


def parse_tcp(table: bytes) -> Iterator[tuple[int, TcpPort]]:
    """Yield inode and place of each listening socket in /proc/net/tcp or tcp6. Pure."""
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) > _TCP_INODE and fields[_TCP_STATE] == _LISTEN:
            address, _, number = fields[_TCP_LOCAL].partition(b":")
            yield int(fields[_TCP_INODE]), TcpPort(int(number, 16), _reachable(address))


def _reachable(address: bytes) -> str:
    """Return the address to connect to. The kernel prints words of four bytes, each reversed."""
    words = [int(address[at : at + 8], 16) for at in range(0, len(address), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    if len(words) == 1:
        return "127.0.0.1" if words[0] == 0 else socket.inet_ntop(socket.AF_INET, packed)
    if packed.startswith(b"\0" * 10 + b"\xff\xff"):
        # IPv4 on an IPv6 socket.
        return socket.inet_ntop(socket.AF_INET, packed[12:])
    # "::" takes IPv4 as well unless it was told not to, which is not shown here.
    return "::1" if not any(words) else socket.inet_ntop(socket.AF_INET6, packed)


def parse_unix(table: bytes) -> Iterator[tuple[int, UnixPort]]:
    """Yield inode and place of each listening stream socket in /proc/net/unix. Pure."""
    for line in table.splitlines()[1:]:
        fields = line.split(maxsplit=_UNIX_PATH)
        if len(fields) <= _UNIX_PATH or not fields[_UNIX_PATH].startswith(b"/"):
            # Without a path, abstract, or relative to somebody's directory.
            continue
        try:
            stream = int(fields[_UNIX_TYPE], 16) == socket.SOCK_STREAM
            accepts = int(fields[_UNIX_FLAGS], 16) & _ACCEPTS
            inode = int(fields[_UNIX_INODE])
        except ValueError:
            # A part of somebody's path.
            continue
        if stream and accepts:
            yield inode, UnixPort(fields[_UNIX_PATH])


def _socket_inodes(pid: int, namespace: str) -> Iterator[int]:
    try:
        if os.readlink(f"/proc/{pid}/ns/net") != namespace:
            return
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        # It ended, or has become somebody else's (sudo).
        return
    for name in names:
        try:
            link = os.readlink(f"/proc/{pid}/fd/{name}")
        except OSError:
            continue
        if link.startswith(_SOCKET_LINK):
            yield int(link[len(_SOCKET_LINK) : -1])


def _name(pid: int) -> str:
    try:
        return read_whole(f"/proc/{pid}/comm").decode(errors="backslashreplace").rstrip("\n")
    except OSError:
        return ""
