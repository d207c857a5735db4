"""Sizes and durations as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.core.units import MAX_BYTES, MAX_DURATION_S, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0),
        ("4096", 4096),
        ("1b", 1),
        ("16G", 16 << 30),
        ("16g", 16 << 30),
        ("16GiB", 16 << 30),
        ("16Gi", 16 << 30),
        ("16GB", 16_000_000_000),
        ("64 MiB", 64 << 20),
        ("1.5K", 1536),
        ("0.1KB", 100),
        (" 2T ", 2 << 40),
        ("7E", 7 << 60),
    ],
)
def test_a_size_is_binary_unless_its_unit_ends_in_b_without_i(text: str, size_bytes: int) -> None:
    """16G is 16 GiB, 16GB is decimal."""
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    "text",
    [
        "",
        "G",
        "-1",
        "1.G",
        "1e3",
        "12 34",
        "5X",
        "16GBB",
        "9E",
        "1_000",
        "nan",
        "٣",
    ],  # the last: a digit of another script
)
def test_what_is_no_size_is_refused_in_one_line(text: str) -> None:
    """The message repeats the text and is one line."""
    with pytest.raises(ValueError, match=r"below 8 EiB|not a size") as caught:
        parse_size(text)
    assert "\n" not in str(caught.value)


@given(st.integers(0, MAX_BYTES))
def test_a_bare_number_is_bytes(size_bytes: int) -> None:
    """However large, without rounding."""
    assert parse_size(str(size_bytes)) == size_bytes


@pytest.mark.parametrize(
    ("text", "duration_s"),
    [
        ("90s", 90),
        ("90", 90),
        ("8h", 8 * 3600),
        ("1d12h", 36 * 3600),
        ("1d 12h", 36 * 3600),
        ("1.5h", 5400),
        ("500ms", 0.5),
        ("1m30s", 90),
        ("1w", 7 * 86400),
        ("0", 0),
        ("1H", 3600),
    ],
)
def test_a_duration_is_a_sum_of_parts(text: str, duration_s: float) -> None:
    """Largest unit first; a bare number is seconds."""
    assert parse_duration(text) == pytest.approx(duration_s)


@pytest.mark.parametrize(
    "text", ["", "h", "12h1d", "1h1h", "5 10", "1h30", "-1s", "1y", "inf", "99999999999h"]
)
def test_what_is_no_duration_is_refused_in_one_line(text: str) -> None:
    """Units out of order and units twice are slips of the pen."""
    with pytest.raises(ValueError, match=r"duration|hundred years") as caught:
        parse_duration(text)
    assert "\n" not in str(caught.value)


@given(st.floats(0, MAX_DURATION_S / 2).map(lambda value: round(value, 3)))
def test_a_bare_number_is_seconds(duration_s: float) -> None:
    """To the millisecond."""
    assert parse_duration(f"{duration_s:.3f}") == pytest.approx(duration_s, abs=1e-6)


@given(st.text(max_size=12))
def test_no_text_makes_the_readers_fail_otherwise(text: str) -> None:
    """Whatever comes in, the answer is a number or a ValueError."""
    for parse in (parse_size, parse_duration):
        try:
            assert parse(text) >= 0
        except ValueError:
            continue
