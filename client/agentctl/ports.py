"""What a forward leads to."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TcpPlace:
    """A TCP port of the host."""

    number: int

    def __str__(self) -> str:
        """As people say it."""
        return f"port {self.number}"


@dataclass(frozen=True, slots=True)
class UnixPlace:
    """A unix socket of the host, by its absolute path."""

    path: bytes

    def __str__(self) -> str:
        """As people say it."""
        return os.fsdecode(self.path)


Place = TcpPlace | UnixPlace


@dataclass(frozen=True, slots=True)
class JobPort:
    """A place where a process of a job listens."""

    place: Place
    #: TCP: what it is bound to, loopback for any address.
    address: str
    pid: int
    process_name: str


@dataclass(frozen=True, slots=True)
class Target:
    """Where a connection leads. No job: a TCP port of the host's loopback."""

    place: Place
    job_id: int | None = None
