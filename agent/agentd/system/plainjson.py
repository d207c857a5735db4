"""JSON by the C half of `json` alone.

For the spawner and what is forked from it: each of three forks a job copies the page tables
of everything ever imported, and `json` brings `re` and `enum` (1.2 MB, 0.3 ms a launch).
"""

from __future__ import annotations

from _json import encode_basestring_ascii, make_encoder, make_scanner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


class _Context:
    """What json.JSONDecoder() would pass."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float


_scan = make_scanner(_Context)  # type: ignore[arg-type]  # any object with these attributes
_encode = make_encoder(None, repr, encode_basestring_ascii, None, ":", ",", False, False, True)


def dumps(body: Mapping[str, object]) -> bytes:
    """Return an object of plain values as one line, without the newline. Pure."""
    return "".join(_encode(body, 0)).encode()


def loads(data: bytes) -> dict[str, Any]:
    """Return an object. Pure.

    Raises:
        ValueError: It is not one JSON object and nothing else.

    """
    text = data.decode().strip()
    try:
        body, end = _scan(text, 0)
    except (StopIteration, SystemError):
        # SystemError: the scanner's own error is json.decoder's, which is not loaded.
        raise ValueError("not JSON") from None
    if end != len(text) or type(body) is not dict:
        raise ValueError("not one JSON object")
    return body
