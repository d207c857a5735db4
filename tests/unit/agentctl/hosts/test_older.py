"""Which of two versions is the older one."""

from __future__ import annotations

import pytest

from agentctl.hosts.remote.installing import is_older


@pytest.mark.parametrize(
    ("version", "other"),
    [("0.1.0", "0.1.1"), ("0.9.0", "0.10.0"), ("0.2.0rc1", "0.2.0"), ("0.1.9", "0.2.0.dev3")],
)
def test_the_older_one_is_known(version: str, other: str) -> None:
    """By numbers, and what leads up to a version is before it."""
    assert is_older(version, other)
    assert not is_older(other, version)


@pytest.mark.parametrize("other", ["0.1.0", "", "what", "9" * 5000, "1.x/../2"])
def test_what_is_no_version_is_not_newer(other: str) -> None:
    """The same one, or none, stands in nobody's way."""
    assert not is_older("0.1.0", other)
