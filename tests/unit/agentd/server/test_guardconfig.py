"""Sections [guard] and [hooks] of config.toml."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentd.core.guard.model import GuardPolicy, Mark, Marks
from agentd.errors import InvalidSpecError
from agentd.server.config import Config, ConfigFile, parse
from agentd.server.runtime.hooks import HooksConfig

GIB = 1 << 30


def test_what_is_not_said_is_the_default() -> None:
    """No section, an empty one, a part of a mark."""
    assert parse("").guard == parse("[guard]").guard == GuardPolicy()
    assert parse("").hooks == parse("[hooks]").hooks == HooksConfig()
    assert parse("[guard]\nwarn = { percent = 20 }").guard.marks == Marks(Mark(20.0, 16 * GIB))


def test_every_key_of_the_guard_is_read() -> None:
    """Inline tables or tables of their own, sizes as everywhere."""
    policy = parse(
        """
        [guard]
        enabled = false
        dry_run = true
        pause_limit = "1m30s"
        warn = { percent = 50, cap = "32GB" }
        pause = { percent = 40.5, cap = 31999999999 }
        [guard.kill]
        percent = 1
        """
    ).guard
    assert policy == GuardPolicy(
        enabled=False,
        dry_run=True,
        pause_limit_s=90.0,
        marks=Marks(
            warn=Mark(50.0, 32_000_000_000),
            pause=Mark(40.5, 31_999_999_999),
            kill=Mark(1.0, 2 * GIB),
        ),
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[guard]\nwarn = "80%"', ["guard.warn (line 2)", "'80%' is not a mark", "percent = 15"]),
        ("[guard]\nwarn = { percent = nan }", ["guard.warn (line 2)", "nan"]),
        ("[guard]\nwarn = { percent = -1 }", ["guard.warn", "-1"]),
        ("[guard]\nwarn = { percent = 0 }", ["guard.warn", "above 0"]),
        ("[guard]\nwarn = { percent = 101 }", ["guard.warn", "at most 100"]),
        ("[guard]\nwarn = { percent = inf }", ["guard.warn", "at most 100"]),
        ("[guard]\nwarn = { percent = true }", ["guard.warn", "not a number"]),
        ('[guard]\nwarn = { cap = "-1G" }', ["guard.warn", "'-1G'"]),
        ("[guard]\nwarn = { cap = 0 }", ["guard.warn", "above 0"]),
        ("[guard]\nwarn = { cap = 1.5 }", ["guard.warn", "not a size"]),
        ("[guard]\n\nwarn = { prcent = 1 }", ["guard.warn (line 3)", "'prcent' is unknown"]),
        ("[guard]\n[guard.term]\nx = 1", ["guard.term (line 2)", "'x' is unknown"]),
        ("[guard]\nwarm = 1", ["guard.warm (line 2)", "unknown", "warn, pause, term, kill"]),
        ("[guard]\nenabled = 1", ["guard.enabled (line 2)", "neither true nor false"]),
        ('[guard]\npause_limit = "x"', ["guard.pause_limit (line 2)", "'x'"]),
        ("[guard]\npause_limit = -1", ["guard.pause_limit", "-1"]),
        ("guard = 1", ["guard", "[guard]"]),
        (
            "[guard]\npause = { percent = 15 }",
            ["guard.pause (line 2)", "15 percent is not below warn's 15 (the default)"],
        ),
        (
            "[guard]\nwarn = { percent = 5 }",
            ["guard.warn (line 2)", "5 percent is not above pause's 8 (the default)"],
        ),
        (
            "[guard]\nwarn = { percent = 5 }\npause = { percent = 6 }",
            ["guard.pause (line 3)", "6 percent is not below warn's 5;"],
        ),
        (
            '[guard]\npause = { percent = 7 }\nwarn = { cap = "8GB" }',
            ["guard.warn (line 3)", "a cap of 8 GB is not above pause's 8 GiB (the default)"],
        ),
        (
            '[guard]\nkill = { cap = "5GiB" }',
            ["guard.kill (line 2)", "a cap of 5 GiB is not below term's 4 GiB (the default)"],
        ),
        ('[hooks]\non_end = "/bin/true"', ["hooks.on_end (line 2)", "is not a list"]),
        ("[hooks]\non_end = [1]", ["hooks.on_end", "is not a list"]),
        ('[hooks]\non_end = ["true"]', ["hooks.on_end (line 2)", "not an absolute path"]),
        ('[hooks]\non_guard = ["/no/such"]', ["hooks.on_guard (line 2)", "no such file"]),
        ('[hooks]\non_guard = ["/etc/passwd"]', ["hooks.on_guard", "not an executable file"]),
        ('[hooks]\non_guard = ["/tmp"]', ["hooks.on_guard", "not an executable file"]),
        ('[hooks]\non_end = ["/bin/true", "a\\u0000b"]', ["hooks.on_end", "NUL"]),
        ("[hooks]\ntimeout = 0", ["hooks.timeout (line 2)", "above 0"]),
        ('[hooks]\ntimeout = "2h"', ["hooks.timeout (line 2)", "at most 3600"]),
        ("[hooks]\non_kill = []", ["hooks.on_kill (line 2)", "unknown", "on_guard, on_end"]),
    ],
)
def test_what_cannot_be_meant_is_refused_by_key_and_line(text: str, words: list[str]) -> None:
    """One line that says where and why."""
    with pytest.raises(InvalidSpecError) as caught:
        parse(text)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_hooks_are_program_and_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never a shell's line; ~/ is the home directory."""
    monkeypatch.setenv("HOME", str(tmp_path))
    program = tmp_path / "tell"
    program.write_text("#!/bin/sh\n", encoding="utf-8")
    program.chmod(0o755)
    hooks = parse(
        '[hooks]\non_guard = ["/bin/echo", "$HOME; x"]\non_end = ["~/tell"]\ntimeout = "5s"'
    ).hooks
    assert hooks == HooksConfig(("/bin/echo", "$HOME; x"), (str(program),), 5.0)


def test_a_hook_whose_interpreter_is_missing_is_refused(tmp_path: Path) -> None:
    """It would only fail when it is needed."""
    program = tmp_path / "tell"
    program.write_text("#!/no/such/sh\n", encoding="utf-8")
    program.chmod(0o755)
    with pytest.raises(InvalidSpecError, match="its interpreter '/no/such/sh' does not exist"):
        parse(f'[hooks]\non_end = ["{program}"]')


def test_a_bad_guard_leaves_the_last_good_one(tmp_path: Path) -> None:
    """While the agent runs; a file that never was good is told apart from the defaults."""
    path = tmp_path / "config.toml"
    path.write_text("[guard]\ndry_run = true", encoding="utf-8")
    config = ConfigFile(str(path))
    assert config.was_ever_good
    path.write_text("[guard]\ndry_run = 7", encoding="utf-8")
    config.reload()
    assert (config.current.guard.dry_run, "guard.dry_run" in config.error) == (True, True)
    assert config.complaint == f"{path}: {config.error}; the last good one is in force"
    never_good = ConfigFile(str(path))
    assert (never_good.was_ever_good, never_good.current) == (False, Config())
    assert never_good.complaint.endswith("; the defaults are in force")
    seen: list[Config] = []
    never_good.on_change(seen.append)
    path.write_text("", encoding="utf-8")
    never_good.reload()
    assert seen == [Config()]
