"""The server's own log."""

from __future__ import annotations

import io
import json
import logging
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from agentd.server import log


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Put the process's logging back as it was."""
    handlers = logging.getLogger().handlers[:]
    yield
    structlog.reset_defaults()
    logging.getLogger().handlers[:] = handlers
    assert not structlog.is_configured()


def lines(directory: Path, name: str = log.FILE_NAME) -> list[dict[str, object]]:
    """Return the events in one file."""
    return [json.loads(line) for line in (directory / name).read_text("utf-8").splitlines()]


def test_an_event_is_one_line_of_json(tmp_path: Path) -> None:
    """With level and UTC time, private to its owner, odd text and newlines escaped."""
    log.configure(str(tmp_path), log.LogLevel.INFO)
    log.get_logger().info("job.ended", job_id=7, reason="two\nlines \udcff")
    (event,) = lines(tmp_path)
    assert (event["event"], event["level"], event["job_id"]) == ("job.ended", "info", 7)
    assert str(event["timestamp"]).endswith("Z")
    assert stat.S_IMODE(os.stat(tmp_path / log.FILE_NAME).st_mode) == 0o600


def test_the_level_can_change_while_it_runs(tmp_path: Path) -> None:
    """Loggers made before follow it too."""
    log.configure(str(tmp_path), log.LogLevel.WARNING)
    logger = log.get_logger()
    logger.info("one")
    log.set_level(log.LogLevel.DEBUG)
    logger.debug("two")
    log.set_level(log.LogLevel.ERROR)
    logger.warning("three")
    assert [event["event"] for event in lines(tmp_path)] == ["two"]


def test_a_traceback_is_in_its_line(tmp_path: Path) -> None:
    """Of an exception under way or of one that is handed over."""
    log.configure(str(tmp_path), log.LogLevel.INFO)
    log.get_logger().error("rpc.crashed", exc_info=ZeroDivisionError("why"))
    assert "ZeroDivisionError: why" in str(lines(tmp_path)[0]["exception"])


def test_warnings_of_libraries_come_into_the_same_file(tmp_path: Path) -> None:
    """They are named, and what is below a warning stays out."""
    log.configure(str(tmp_path), log.LogLevel.INFO)
    logging.getLogger("some.library").warning("odd: %s", 3)
    logging.getLogger("some.library").info("chatter")
    (event,) = lines(tmp_path)
    assert (event["event"], event["library"]) == ("library.warned", "some.library")
    assert event["message"] == "odd: 3"


def test_a_client_that_leaves_is_no_warning(tmp_path: Path) -> None:
    """What gRPC logs with a traceback is the daily Ctrl-C of somebody who read a log."""
    log.configure(str(tmp_path), log.LogLevel.INFO)
    left = type("ExecuteBatchError", (Exception,), {})
    logging.getLogger("grpc._cython.cygrpc").error("raised in core", exc_info=left())
    log.get_logger().info("next")
    assert [event["event"] for event in lines(tmp_path)] == ["next"]


def test_the_file_is_rotated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest stay, the oldest go, no line is torn."""
    monkeypatch.setattr(log, "FILE_BYTES", 1000)
    log.configure(str(tmp_path), log.LogLevel.INFO)
    for number in range(200):
        log.get_logger().info("event", number=number)
    names = sorted(os.listdir(tmp_path))
    assert names == [log.FILE_NAME, *(f"{log.FILE_NAME}.{n}" for n in range(1, log.FILE_COUNT))]
    assert all(os.path.getsize(tmp_path / name) <= 1000 for name in names)
    kept = [
        event["number"] for name in [*names[:0:-1], names[0]] for event in lines(tmp_path, name)
    ]
    assert kept == list(range(200))[-len(kept) :]


def test_a_log_that_cannot_be_written_costs_one_line_on_stderr(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """And never the server."""
    log.configure(str(tmp_path / "missing"), log.LogLevel.INFO)
    log.get_logger().info("one")
    log.get_logger().info("two")
    assert capfd.readouterr().err.count("cannot write") == 1
    (tmp_path / "missing").mkdir()
    log.get_logger().info("three")
    assert [event["event"] for event in lines(tmp_path / "missing")] == ["three"]


def test_a_terminal_gets_every_event_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For people; without colours where NO_COLOR asks for none."""
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = io.StringIO()
    log.configure(str(tmp_path), log.LogLevel.INFO, terminal)
    log.get_logger().info("server.ready", server_pid=7)
    assert "server.ready" in terminal.getvalue()
    assert "server_pid=7" in terminal.getvalue()
    assert "\x1b" not in terminal.getvalue()
    assert lines(tmp_path)[0]["server_pid"] == 7


def test_the_server_loads_neither_rich_nor_watchdog_to_start() -> None:
    """Both cost every first submit; rich would come with structlog."""
    names = "('rich', 'watchdog')"
    code = f"import sys, agentd.server.main; print([n for n in {names} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
