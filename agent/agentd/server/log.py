"""The server's own log: structlog, JSON lines in a rotated file, people's colours on a terminal.

Import this module before anything else that imports structlog: `structlog.dev` loads all of
rich if it is installed, which the server never uses (35 ms and 4 MB of every start).
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import MutableMapping
from enum import StrEnum
from typing import Any, TextIO

from agentd.system.complaint import complain

_hidden = "rich" not in sys.modules
if _hidden:
    # None makes `import rich` raise ImportError (the import system's documented way), which
    # structlog.dev takes for "not installed".
    sys.modules["rich"] = None  # type: ignore[assignment]
import structlog  # noqa: E402  # after the line above, or it would be of no use

if _hidden:
    del sys.modules["rich"]

get_logger = structlog.get_logger

FILE_NAME = "agentd.log"
FILE_BYTES = 4 << 20
FILE_COUNT = 5


class LogLevel(StrEnum):
    """How much is written; each level includes those below it."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


_NUMBERS = {
    LogLevel.DEBUG: logging.DEBUG,
    LogLevel.INFO: logging.INFO,
    LogLevel.WARNING: logging.WARNING,
    LogLevel.ERROR: logging.ERROR,
}


class _RotatedFile:
    """What structlog takes for a logger: one finished line a call, whatever the level.

    Private to its owner. One write(2) a line: the stdlib's rotating handler also asks for the
    size and the kind of the file each time, and keeps in its buffer what a full disk refuses.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        # A line may also come from a thread of a library.
        self._lock = threading.Lock()
        self._descriptor = -1
        self._size_bytes = 0
        self._said = False
        self.debug = self.info = self.warning = self.error = self.critical = self._write

    def _write(self, line: str) -> None:
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        with self._lock:
            try:
                if self._descriptor < 0:
                    self._open()
                elif self._size_bytes + len(data) > FILE_BYTES:
                    self._rotate()
                self._size_bytes += os.write(self._descriptor, data)
            except OSError as error:
                self._complain(error)

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor = os.open(self._path, flags, 0o600)
        self._size_bytes = os.fstat(self._descriptor).st_size

    def _rotate(self) -> None:
        os.close(self._descriptor)
        self._descriptor = -1
        for number in range(FILE_COUNT - 1, 0, -1):
            older = f"{self._path}.{number}"
            newer = f"{self._path}.{number - 1}" if number > 1 else self._path
            if os.path.exists(newer):
                os.replace(newer, older)
        self._open()

    def _complain(self, error: OSError) -> None:
        """Say once on stderr that lines are lost."""
        if not self._said:
            self._said = True
            complain(f"cannot write {self._path}: {error}")


class _Console:
    """A processor that shows each event on a terminal and passes it on unchanged."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._render = structlog.dev.ConsoleRenderer(
            colors="NO_COLOR" not in os.environ,
            exception_formatter=structlog.dev.plain_traceback,
        )

    def __call__(
        self, logger: object, name: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        self._stream.write(f"{self._render(logger, name, dict(event))}\n")
        self._stream.flush()
        return event


class _FromStdlib(logging.Handler):
    """Carries warnings of libraries (grpc, asyncio, watchdog) into our log."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if type(error).__name__ == "ExecuteBatchError":
            # How gRPC reports a client that left in the middle of a stream (Ctrl-C of logs).
            structlog.get_logger().debug("rpc.client_left")
            return
        structlog.get_logger().warning(
            "library.warned",
            library=record.name,
            message=record.getMessage(),
            exc_info=record.exc_info,
        )


def configure(log_dir: str, level: LogLevel, terminal: TextIO | None = None) -> None:
    """Send every event to `log_dir`, and to `terminal` too if one is given. Never raises."""
    file = _RotatedFile(f"{log_dir}/{FILE_NAME}")
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    if terminal is not None:
        processors.append(_Console(terminal))
    processors.append(structlog.processors.JSONRenderer(separators=(",", ":")))
    structlog.configure(
        processors=processors,
        logger_factory=lambda *_args: file,
        wrapper_class=structlog.make_filtering_bound_logger(_NUMBERS[level]),
        # A cached logger would keep its level over a reload of the configuration.
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers[:] = [_FromStdlib(level=logging.WARNING)]


def set_level(level: LogLevel) -> None:
    """Let events of `level` and above through from now on."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(_NUMBERS[level]))
