"""Sizes and durations as the client reads them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentctl.units import parse_duration, parse_size
from agentd.core import units as agent_units


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("16G", 16 << 30),
        ("16GiB", 16 << 30),
        ("16GB", 16 * 10**9),
        ("1.5m", 3 << 19),
        ("4096", 4096),
        (" 2 k ", 2048),
    ],
)
def test_a_letter_counts_in_1024_and_a_letter_with_b_in_1000(text: str, size_bytes: int) -> None:
    """16G is 16 GiB, 16GB is decimal, a plain number is bytes."""
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "G", "16Q", "-1G", "1e9", "nan", "inf", "1 2", "9999999E"])
def test_what_is_no_size_is_refused(text: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(ValueError, match=r"not a size|below 8 EiB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("8h", 28800), ("1d12h", 129600), ("500ms", 0.5), ("30", 30), ("1.5h", 5400)],
)
def test_durations_are_sums_of_parts_or_plain_seconds(text: str, seconds: float) -> None:
    """The larger unit comes first; a plain number is seconds."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "12h1d", "5x", "-3", "nan", "1h 2", "9999999d"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    """Nothing is guessed, and nothing is negative."""
    with pytest.raises(ValueError, match=r"not a duration|more than"):
        parse_duration(text)


@given(st.from_regex(r"\A\s?\d{0,4}(\.\d)?\s?[kmgtpebisdhw]{0,4}(\d{1,2}[hms])?\Z"))
def test_agent_and_client_read_the_same(text: str) -> None:
    """Neither side imports the other, and 16G is the same everywhere."""
    for ours, theirs in (
        (parse_size, agent_units.parse_size),
        (parse_duration, agent_units.parse_duration),
    ):
        assert _result(ours, text) == _result(theirs, text)


def _result(parse: Callable[[str], float], text: str) -> float | str:
    try:
        return parse(text)
    except ValueError as error:
        return str(error)
