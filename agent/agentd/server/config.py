"""The agent's part of config.toml, read at start and again whenever the file changes.

    [agent]
    log_level = "info"        # debug, info, warning, error
    [jobs]
    grace = "10s"             # between SIGTERM and SIGKILL of a stop
    [logs]
    segment = "64MiB"         # of each job's log on disk
    retention = "1GiB"        # of all segments of one stream of a job

and [guard] and [hooks], see `agentd.server.guardconfig`.

Sizes and durations as in `agentd.core.units`; a bare number is bytes or seconds. Some sections
belong to the client and to other parts of the agent. What is wrong in ours, and what is
nobody's, is an error that names the key: a value that was silently ignored is found out
when it is too late.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from agentd.core.guard.model import GuardPolicy, Marks
from agentd.core.units import MAX_BYTES, MAX_DURATION_S, parse_duration, parse_size
from agentd.errors import AgentError, InvalidSpecError
from agentd.server import guardconfig
from agentd.server.guardconfig import MARKS
from agentd.server.log import LogLevel
from agentd.server.runtime.filewatch import FileWatches, Interest
from agentd.server.runtime.hooks import HooksConfig
from agentd.server.runtime.model import Defaults
from agentd.system.files import system_error

#: A page: less would be one file for each line.
_LEAST_LOG_BYTES = 4096

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """Section [agent]."""

    log_level: LogLevel = LogLevel.INFO


@dataclass(frozen=True, slots=True)
class JobsConfig:
    """Section [jobs]."""

    grace_s: float = 10.0


@dataclass(frozen=True, slots=True)
class LogsConfig:
    """Section [logs]."""

    segment_bytes: int = 64 << 20
    retention_bytes: int = 1 << 30


@dataclass(frozen=True, slots=True)
class Config:
    """What of the file is the agent's."""

    agent: AgentConfig = AgentConfig()
    jobs: JobsConfig = JobsConfig()
    logs: LogsConfig = LogsConfig()
    guard: GuardPolicy = field(default_factory=GuardPolicy)
    hooks: HooksConfig = field(default_factory=HooksConfig)

    @property
    def defaults(self) -> Defaults:
        """What a submit that says nothing gets."""
        return Defaults(
            grace_s=self.jobs.grace_s,
            log_segment_bytes=self.logs.segment_bytes,
            log_retention_bytes=self.logs.retention_bytes,
        )


def _log_level(value: object) -> LogLevel:
    try:
        return LogLevel(value)  # type: ignore[arg-type]  # what is no str is no member either
    except ValueError:
        raise ValueError(f"{value!r} is none of {', '.join(LogLevel)}") from None


def _duration_s(value: object) -> float:
    if isinstance(value, str):
        return parse_duration(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} is not a duration; write 90s, 10m, 8h or 1d12h")
    if not 0 <= value <= MAX_DURATION_S:
        raise ValueError(f"{value!r} is not between 0 and {MAX_DURATION_S:.0f} seconds")
    return float(value)


def _log_bytes(value: object) -> int:
    size_bytes = parse_size(value) if isinstance(value, str) else value
    if isinstance(size_bytes, bool) or not isinstance(size_bytes, int):
        raise ValueError(f"{value!r} is not a size; write 16G (GiB), 16GiB or 16GB (decimal)")
    if not _LEAST_LOG_BYTES <= size_bytes <= MAX_BYTES:
        raise ValueError(f"{value!r} is not at least {_LEAST_LOG_BYTES} bytes")
    return size_bytes


#: Section, key in the file, name of the field, reader of the value.
_KEYS: tuple[tuple[str, str, str, Callable[[object], object]], ...] = (
    ("agent", "log_level", "log_level", _log_level),
    ("jobs", "grace", "grace_s", _duration_s),
    ("logs", "segment", "segment_bytes", _log_bytes),
    ("logs", "retention", "retention_bytes", _log_bytes),
    ("guard", "enabled", "enabled", guardconfig.flag),
    ("guard", "dry_run", "dry_run", guardconfig.flag),
    ("guard", "pause_limit", "pause_limit_s", _duration_s),
    ("hooks", "on_guard", "on_guard", guardconfig.command),
    ("hooks", "on_end", "on_end", guardconfig.command),
    ("hooks", "timeout", "timeout_s", lambda v: guardconfig.hook_timeout_s(_duration_s(v))),
)
_SECTIONS = frozenset(section for section, *_ in _KEYS)
#: Of the client and of other parts of the agent, which check what stands in them.
_OTHERS = frozenset({"client", "host", "ssh"})


def parse(text: str) -> Config:
    """Return the configuration in `text`. Looks at nothing but the programs of hooks.

    Raises:
        InvalidSpecError: It is no TOML, a section or one of our keys is unknown, or a value is
            bad; the message names section, key and line.

    """
    try:
        body = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidSpecError(f"not TOML: {error}") from error
    for section, values in body.items():
        if section in _SECTIONS:
            _refuse_unknown(text, section, values)
        elif section not in _OTHERS:
            known = ", ".join(f"[{name}]" for name in sorted(_SECTIONS | _OTHERS))
            where = _where(text, "", section)
            raise InvalidSpecError(f"{section}{where}: unknown; this file may hold {known}")
    config = Config()
    for section, key, name, read in _KEYS:
        values = body.get(section, {})
        if key not in values:
            continue
        try:
            changed = replace(getattr(config, section), **{name: read(values[key])})
        except ValueError as error:
            where = _where(text, section, key)
            raise InvalidSpecError(f"{section}.{key}{where}: {error}") from error
        config = replace(config, **{section: changed})
    _refuse_unfitting(config, text, body.get("logs", {}))
    return replace(config, guard=_with_marks(config.guard, text, body.get("guard", {})))


def _with_marks(policy: GuardPolicy, text: str, given: Mapping[str, object]) -> GuardPolicy:
    marks = Marks()
    for name in MARKS:
        if name not in given:
            continue
        try:
            marks = replace(marks, **{name: guardconfig.mark(given[name], getattr(marks, name))})
        except ValueError as error:
            where = _where(text, "guard", name)
            raise InvalidSpecError(f"guard.{name}{where}: {error}") from error
    wrong = guardconfig.out_of_order(marks, given)
    if wrong is not None:
        name, why = wrong
        raise InvalidSpecError(
            f"guard.{name}{_where(text, 'guard', name)}: {why}; each mark is below the one "
            f"before: {', '.join(MARKS)}"
        )
    return replace(policy, marks=marks)


def _refuse_unfitting(config: Config, text: str, given: Mapping[str, object]) -> None:
    logs = config.logs
    # The default segment fits itself into whatever is kept.
    if "segment" in given and logs.segment_bytes > logs.retention_bytes:
        raise InvalidSpecError(
            f"logs.segment{_where(text, 'logs', 'segment')}: {logs.segment_bytes} bytes are more "
            f"than logs.retention keeps, {logs.retention_bytes}"
        )


def _refuse_unknown(text: str, section: str, values: object) -> None:
    if not isinstance(values, Mapping):
        raise InvalidSpecError(f"{section}{_where(text, '', section)}: is a section: [{section}]")
    known = [key for name, key, *_ in _KEYS if name == section]
    known += MARKS if section == "guard" else ()
    for key in values:
        if key not in known:
            where = _where(text, section, key)
            raise InvalidSpecError(
                f"{section}.{key}{where}: unknown; [{section}] may hold {', '.join(known)}"
            )


def _where(text: str, section: str, key: str) -> str:
    """Return " (line N)" if the key stands on a line of its own, as it nearly always does. Pure."""
    current = ""
    for number, line in enumerate(text.splitlines(), start=1):
        header = re.match(r"\s*\[{1,2}\s*([^\[\]]+?)\s*\]", line)
        if header:
            current = header[1].strip("\"'")
            if section and current == f"{section}.{key}":
                return f" (line {number})"
            if not section and current.split(".")[0].strip("\"' ") == key:
                return f" (line {number})"
        name = re.match(r"\s*([\"']?)([^\"'=\s]+)\1\s*=", line)
        full = f"{current}.{name[2]}" if name and current else name[2] if name else ""
        wanted = f"{section}.{key}" if section else key
        if full == wanted or full.startswith(f"{wanted}."):
            return f" (line {number})"
    return ""


def load(path: str) -> Config:
    """Return the configuration in the file; a missing file is the defaults.

    Raises:
        InvalidSpecError: As `parse`.
        SystemCallError: The file cannot be read.

    """
    try:
        with open(path, encoding="utf-8") as file:
            return parse(file.read())
    except FileNotFoundError:
        return Config()
    except IsADirectoryError as error:
        raise InvalidSpecError(f"{path} is a directory; the configuration is a file") from error
    except UnicodeDecodeError as error:
        raise InvalidSpecError(f"not TOML: {error}") from error
    except OSError as error:
        raise system_error(f"read {path}", error) from error


class ConfigFile:
    """The configuration in force: the last good one.

    Attributes:
        current: In force now.
        error: Why the file on disk is not in force; empty: it is.

    """

    def __init__(self, path: str) -> None:
        """Read the file; a bad one leaves the defaults in force."""
        self._path = path
        self._callbacks: list[Callable[[Config], None]] = []
        self.current = Config()
        self.error = ""
        self._unwatched = False
        #: No file was good yet: the defaults are in force for want of anything better.
        self.was_ever_good = False
        # One object: each look at a method is a new one, and a watch knows them by identity.
        self._wake = self.reload
        self.reload()

    @property
    def complaint(self) -> str:
        """What people are told of a file that is not in force: place, error, and what is."""
        if not self.error:
            return ""
        force = "the last good one is" if self.was_ever_good else "the defaults are"
        return f"{self._path}: {self.error}; {force} in force"

    def on_change(self, callback: Callable[[Config], None]) -> None:
        """Call `callback` with each new configuration that comes in force from now on."""
        self._callbacks.append(callback)

    def reload(self) -> None:
        """Look at the file again. Never raises for what stands in it."""
        try:
            config = load(self._path)
        except AgentError as error:
            if str(error) != self.error:
                self.error = str(error)
                _log.error("config.rejected", path=self._path, reason=self.error)
            return
        repaired, self.error = bool(self.error), ""
        first, self.was_ever_good = not self.was_ever_good, True
        if config == self.current and not (first and repaired):
            if repaired:
                _log.info("config.repaired", path=self._path)
            return
        self.current = config
        _log.info("config.loaded", path=self._path, **_flat(config))
        for callback in self._callbacks:
            callback(config)

    def watch(self, watches: FileWatches) -> None:
        """Reload at every change of the file from now on. Asked again: only what is missing.

        Where there can be no watch, it says so in the log.
        """
        # Editors replace a file by a new one of its name, and dotfile managers link it or its
        # directory elsewhere: the directories are watched, those behind the links too.
        directory = os.path.dirname(os.path.abspath(self._path))
        try:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            for place in (directory, os.path.dirname(os.path.realpath(self._path))):
                watches.add(os.path.realpath(place), Interest.NAMES, self._wake)
        except OSError as error:
            if not self._unwatched:
                _log.warning("config.unwatched", path=self._path, error=str(error))
            self._unwatched = True
            return
        self._unwatched = False
        # What changed before there was a watch.
        self.reload()


def _flat(config: Config) -> dict[str, Any]:
    return {
        f"{section}.{key}": getattr(getattr(config, section), name)
        for section, key, name, _ in _KEYS
    } | {
        f"guard.{name}": (
            getattr(config.guard.marks, name).percent,
            getattr(config.guard.marks, name).cap_bytes,
        )
        for name in MARKS
    }
