"""What each remote host said last, for the time when it does not answer.

A file a host below the client's cache directory, for the user alone. It may be missing, old or
torn at any time: then nothing is known, and nobody is told of it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from agentctl.errors import UnsafeDirectoryError
from agentctl.link.private import forget_file, is_private, replace_file
from agentctl.model import JSON_FIELDS, Cause, Job, JobState, MemAction
from agentctl.paths import cache_directory

_FORMAT = 1
_TIMES = ("submitted_at", "started_at", "ended_at", "requeue_at")


@dataclass(frozen=True, slots=True)
class Seen:
    """A host as it was."""

    #: By the clock of this machine; aware.
    at: datetime
    #: All that were not over, and the newest of those that were; newest first.
    jobs: tuple[Job, ...]


class HostCache:
    """What is remembered of all hosts. Every method is silent about trouble with the disk."""

    def __init__(self, directory: str) -> None:
        """Keep it in `directory`, which is made at the first `keep`."""
        self._directory = directory

    @classmethod
    def of_environment(cls, environ: Mapping[str, str] | None = None) -> HostCache:
        """Return the cache of this user: `$XDG_CACHE_HOME/agentctl/hosts`."""
        return cls(f"{cache_directory(os.environ if environ is None else environ)}/hosts")

    def seen(self, host: str) -> Seen | None:
        """Return what the host said last, or None."""
        if not self._is_ours():
            return None
        try:
            with open(self._path(host), "rb") as file:
                return _seen(host, json.loads(file.read()))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, host: str, jobs: Iterable[Job], at: datetime) -> None:
        """Remember the host's jobs, all that are not over among them, as they were `at`."""
        from agentctl.render.jobs import job_to_json

        content = {
            "format": _FORMAT,
            "seen_at": at.isoformat(),
            "jobs": [job_to_json(job) for job in jobs],
        }
        try:
            os.makedirs(self._directory, 0o700, exist_ok=True)
            if self._is_ours():
                replace_file(self._path(host), json.dumps(content).encode())
        except OSError:
            # A full disk, for one: the next listing is no worse for it.
            pass

    def forget(self, host: str) -> None:
        """Remember nothing of the host any more."""
        forget_file(self._path(host))

    def _path(self, host: str) -> str:
        return f"{self._directory}/{host}.json"

    def _is_ours(self) -> bool:
        try:
            return is_private(self._directory)
        except UnsafeDirectoryError:
            # Whoever else could write there could show us jobs that never were.
            return False


def _seen(host: str, content: Any) -> Seen:  # noqa: ANN401  # whatever JSON holds
    """Return what a file says; raise ValueError, KeyError or TypeError. Pure."""
    if content["format"] != _FORMAT:
        raise ValueError(content["format"])
    jobs = tuple(_job(host, entry) for entry in content["jobs"])
    return Seen(_moment(content["seen_at"]), jobs)


def _job(host: str, entry: Mapping[str, Any]) -> Job:
    fields = {name: entry[name] for name in JSON_FIELDS}
    for name in _TIMES:
        fields[name] = None if fields[name] is None else _moment(fields[name])
    fields["state"] = JobState(fields["state"])
    fields["argv"] = tuple(map(str, fields["argv"]))
    fields["labels"] = dict(fields["labels"])
    fields["cause"] = fields["cause"] and Cause(fields["cause"])
    fields["mem_action"] = fields["mem_action"] and MemAction(fields["mem_action"])
    fields["host"] = host
    return Job(**fields)


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(text)
    return moment
