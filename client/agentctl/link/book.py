"""The host book: every host over SSH by its name, in one small file.

`hosts.json` below the client's state directory; replaced whole, under a lock beside it, so
that two commands at once lose nothing and a reader never sees half of it. Whoever could write
it could send the user's jobs elsewhere: it and its directory must be the user's alone.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from agentctl.errors import InvalidSpecError
from agentctl.link.names import check_destination, check_name
from agentctl.link.private import check_private, replace_file
from agentctl.paths import state_directory

_FORMAT = 1
_DIRECTORY_MODE = 0o700
_FILE_MODE = 0o600


@dataclass(frozen=True, slots=True)
class Host:
    """One host that was set up."""

    name: str
    #: What ssh is given as its destination word.
    destination: str
    #: Absolute path of the agent's launcher on the server.
    agentd: str
    #: Of the agent that was installed there last.
    version: str
    #: Aware.
    added_at: datetime


class HostBook:
    """The hosts in one directory. Safe to use from several processes."""

    def __init__(self, directory: str) -> None:
        """Use the book in `directory`, which is made at the first `put`."""
        self.directory = directory
        self.path = f"{directory}/hosts.json"

    @classmethod
    def of_environment(cls, environ: Mapping[str, str] | None = None) -> HostBook:
        """Return the book of this user: `$XDG_STATE_HOME/agentctl/hosts.json`."""
        return cls(state_directory(os.environ if environ is None else environ))

    def find(self, name: str) -> Host | None:
        """Return the host of this name, or None.

        Raises:
            InvalidSpecError: The book cannot be understood.
            UnsafeDirectoryError: Somebody else could have written it.

        """
        return self._read().get(name)

    def all(self) -> tuple[Host, ...]:
        """Return every host, by name. Raises as `find` does."""
        return tuple(host for _, host in sorted(self._read().items()))

    def put(self, host: Host) -> None:
        """Enter `host`, in place of one of the same name.

        Raises:
            InvalidSpecError: Its name or its destination is none, or as `find` does.
            UnsafeDirectoryError: The directory is not ours alone.
            OSError: It could not be written.

        """
        check_name(host.name)
        check_destination(host.destination)
        with self._changing() as hosts:
            hosts[host.name] = host

    def remove(self, name: str) -> bool:
        """Strike out the host; return whether it was there. Raises as `put` does."""
        if name not in self._read():
            return False
        with self._changing() as hosts:
            return hosts.pop(name, None) is not None

    def _read(self) -> dict[str, Host]:
        try:
            check_private(self.directory)
            check_private(self.path, is_file=True)
            with open(self.path, "rb") as file:
                content = file.read()
        except FileNotFoundError:
            return {}
        try:
            return _parse(json.loads(content))
        except (ValueError, KeyError, TypeError, InvalidSpecError) as error:
            raise InvalidSpecError(
                f"{self.path} cannot be understood ({error}); mend it, or delete it and "
                "add the hosts again"
            ) from None

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Host]]:
        """Yield the hosts to be changed; what is left of them is the book afterwards."""
        os.makedirs(self.directory, _DIRECTORY_MODE, exist_ok=True)
        check_private(self.directory)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        lock = os.open(f"{self.directory}/hosts.lock", flags, _FILE_MODE)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            hosts = self._read()
            yield hosts
            replace_file(self.path, _dump(hosts), is_durable=True)
        finally:
            os.close(lock)


def _parse(content: Any) -> dict[str, Host]:  # noqa: ANN401  # whatever JSON holds
    """Return the hosts of a book; raise ValueError, KeyError or TypeError."""
    if not isinstance(content, dict) or not isinstance(content.get("hosts"), dict):
        raise ValueError('it has no "hosts"')
    if content.get("format") != _FORMAT:
        raise ValueError(f"it has the format {content.get('format')!r} of another version")
    return {name: _host(name, entry) for name, entry in content["hosts"].items()}


def _host(name: str, entry: Mapping[str, Any]) -> Host:
    agentd, version = entry["agentd"], entry["version"]
    destination, added_at = entry["destination"], entry["added_at"]
    texts = (agentd, version, destination, added_at)
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"the entry {name!r} holds something else than text")
    # It may have been written by hand, and all of it goes to command lines.
    check_name(name)
    check_destination(destination)
    if not agentd.startswith("/") or not agentd.isprintable():
        raise ValueError(f"the entry {name!r} has no absolute path of agentd")
    return Host(name, destination, agentd, version, datetime.fromisoformat(added_at))


def _dump(hosts: Mapping[str, Host]) -> bytes:
    entries = {
        host.name: {
            "destination": host.destination,
            "agentd": host.agentd,
            "version": host.version,
            "added_at": host.added_at.isoformat(timespec="seconds"),
        }
        for _, host in sorted(hosts.items())
    }
    return json.dumps({"format": _FORMAT, "hosts": entries}, indent=2).encode() + b"\n"
