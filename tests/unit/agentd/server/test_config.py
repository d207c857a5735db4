"""The agent's part of config.toml."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from agentd.errors import AgentError, InvalidSpecError
from agentd.server.config import Config, ConfigFile, load, parse
from agentd.server.log import LogLevel
from agentd.server.runtime.filewatch import FileWatches
from agentd.server.runtime.model import Defaults
from tests.helpers.wait import wait_until

WHOLE = """
[agent]
log_level = "debug"
[jobs]
grace = "1m30s"
[logs]
segment = "8MiB"
retention = "16GB"
[host.gpu1]
address = "gpu1.example"
[guard]
warn = { percent = 20, cap = "20GiB" }
"""


def test_every_key_of_ours_is_read_and_other_sections_are_left_alone() -> None:
    """The client and other parts of the agent have sections of their own."""
    config = parse(WHOLE)
    assert config.agent.log_level is LogLevel.DEBUG
    assert config.defaults == Defaults(90.0, 8 << 20, 16_000_000_000)


def test_sections_of_others_are_not_looked_into() -> None:
    """Whose they are, they check them."""
    assert parse("client.x = 1\n[host.a]\nx = 1\n[ssh]\nx = 1") == Config()


def test_a_retention_below_the_default_segment_is_no_error() -> None:
    """Only a segment that was asked for can be too large."""
    assert parse('logs.retention = "1MiB"').logs.retention_bytes == 1 << 20


def test_an_empty_or_missing_file_is_the_defaults(tmp_path: Path) -> None:
    """Nobody needs a configuration; the two places of the defaults agree."""
    assert parse("") == Config() == load(str(tmp_path / "missing.toml"))
    assert Config().defaults == Defaults()


def test_bare_numbers_are_seconds_and_bytes() -> None:
    """TOML has numbers; they are as good."""
    config = parse("jobs.grace = 2.5\nlogs.segment = 8192")
    assert (config.jobs.grace_s, config.logs.segment_bytes) == (2.5, 8192)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[logs]\n\nsegmnt = "1M"', ["logs.segmnt", "line 3", "segment, retention"]),
        ('[jobs]\ngrace = "soon"', ["jobs.grace", "line 2", "'soon'", "1d12h"]),
        ("[jobs]\ngrace = -1", ["jobs.grace", "line 2", "-1"]),
        ("[jobs]\ngrace = true", ["jobs.grace", "True"]),
        ("[jobs]\ngrace = nan", ["jobs.grace", "nan"]),
        ('[logs]\nretention = "12"', ["logs.retention", "4096"]),
        ("[logs]\nretention = 1.5", ["logs.retention", "not a size"]),
        ('[agent]\nlog_level = "loud"', ["agent.log_level", "line 2", "debug, info"]),
        ("[agent]\nlog_level = []", ["agent.log_level", "[]"]),
        ('jobs.grace = "x"', ["jobs.grace", "line 1"]),
        ("logs = 3", ["logs", "line 1", "[logs]"]),
        ("[jobs\n", ["not TOML", "line 1"]),
        ('grace = "3s"', ["grace", "line 1", "unknown", "[jobs]"]),
        ("[jobs]\n\n[lgos]\nsegment = 1", ["lgos", "line 3", "unknown", "[logs]"]),
        ("x.y = 1", ["x", "line 1", "unknown"]),
        ("[[hosts]]\na = 1", ["hosts", "line 1", "[host]"]),
        ('[logs]\nretention = "1M"\nsegment = "2M"', ["logs.segment", "line 3", "logs.retention"]),
    ],
)
def test_a_bad_value_is_refused_by_name_and_line(text: str, words: list[str]) -> None:
    """One line that says where and what may stand there."""
    with pytest.raises(InvalidSpecError) as caught:
        parse(text)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=40))
def test_no_text_breaks_the_reader(text: str) -> None:
    """It is a configuration or an AgentError."""
    try:
        parse(text)
    except AgentError:
        return


def test_a_file_that_is_no_text_or_no_file_is_an_error_of_ours(tmp_path: Path) -> None:
    """Never a traceback."""
    (tmp_path / "noise").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(AgentError, match="not TOML"):
        load(str(tmp_path / "noise"))
    with pytest.raises(AgentError, match="is a directory"):
        load(str(tmp_path))


def test_a_bad_config_is_reported_and_the_last_good_one_stays(tmp_path: Path) -> None:
    """The reason is logged once and kept for who asks, until the file is repaired."""
    path = tmp_path / "config.toml"
    path.write_text('[jobs]\ngrace = "20s"\n', encoding="utf-8")
    seen: list[Config] = []
    config = ConfigFile(str(path))
    config.on_change(seen.append)
    path.write_text("[jobs]\ngrace = 20 apples\n", encoding="utf-8")
    with capture_logs() as lines:
        config.reload()
        config.reload()
    assert [line["event"] for line in lines] == ["config.rejected"]
    assert config.current.jobs.grace_s == 20
    assert "line 2" in config.error
    path.write_text('[jobs]\ngrace = "30s"\n', encoding="utf-8")
    config.reload()
    assert (config.error, [c.jobs.grace_s for c in seen]) == ("", [30.0])


def test_a_repaired_file_that_says_what_is_in_force_clears_the_error(tmp_path: Path) -> None:
    """Nothing changes, but the complaint is gone."""
    path = tmp_path / "config.toml"
    path.write_text("x", encoding="utf-8")
    config = ConfigFile(str(path))
    assert config.error
    path.unlink()
    config.reload()
    assert (config.error, config.current) == ("", Config())


def test_a_directory_in_the_files_place_is_an_error_while_it_is_there(tmp_path: Path) -> None:
    """Noticed by itself when it comes and when it goes."""
    path = tmp_path / "config.toml"

    async def scenario() -> None:
        watches = FileWatches()
        config = ConfigFile(str(path))
        config.watch(watches)
        for leave in (path.rmdir, lambda: path.rename(tmp_path / "elsewhere")):
            path.mkdir()
            await asyncio.to_thread(wait_until, lambda: "is a directory" in config.error)
            leave()
            await asyncio.to_thread(wait_until, lambda: not config.error)
        watches.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("way", ["written in place", "replaced by rename", "behind a link"])
def test_a_change_comes_in_force_by_itself(tmp_path: Path, way: str) -> None:
    """However the editor saves it, and also where dotfiles are links."""
    directory = tmp_path / "config"
    path = directory / "config.toml"
    real = path
    if way == "behind a link":
        real = tmp_path / "dotfiles" / "config.toml"
        real.parent.mkdir()
        directory.mkdir()
        path.symlink_to(real)

    async def scenario() -> None:
        watches = FileWatches()
        config = ConfigFile(str(path))
        changed = asyncio.Event()
        config.on_change(lambda _config: changed.set())
        config.watch(watches)
        assert directory.stat().st_mode & 0o077 == 0 or way == "behind a link"
        if way == "replaced by rename":
            scratch = directory / ".config.toml.swp"
            scratch.write_text("jobs.grace = 3", encoding="utf-8")
            scratch.rename(path)
        else:
            real.write_text("jobs.grace = 3", encoding="utf-8")
        async with asyncio.timeout(5):
            await changed.wait()
        assert config.current.jobs.grace_s == 3
        watches.close()

    asyncio.run(scenario())
