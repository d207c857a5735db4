"""The C half of json says what the whole of json says."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.system import plainjson

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(), VALUES)


@given(OBJECTS)
def test_what_is_dumped_is_what_json_dumps(body: dict[str, object]) -> None:
    """Byte by byte: both write the same files."""
    assert plainjson.dumps(body) == json.dumps(body, separators=(",", ":")).encode()


@given(OBJECTS, st.sampled_from([b"", b"\n", b"  \t\r\n"]))
def test_what_is_loaded_is_what_json_loads(body: dict[str, object], space: bytes) -> None:
    """With whatever white space around it; a pidfile is filled up with it."""
    data = space + json.dumps(body, indent=1).encode() + space

    assert plainjson.loads(data) == json.loads(data) == body


def test_a_path_that_is_no_text_comes_back() -> None:
    """Arguments and paths may hold any byte but NUL."""
    body = {"path": b"/tmp/\xff\xe4".decode("utf-8", "surrogateescape")}

    assert plainjson.loads(plainjson.dumps(body)) == body


BROKEN = [b"", b" ", b"{", b'{"a"', b'{"a":', b'{"a":1', b'{"a":"b', b'{"a":1}}', b"[1]", b"7"]
BROKEN += [b"null", b'{"a":\\u}', b'{"a":"\xff"}', b"\0" * 20, b'{"a":1}{"b":2}', b'{"a":tru}']


@pytest.mark.parametrize("data", BROKEN)
def test_what_is_broken_is_refused(data: bytes) -> None:
    """Torn, noise, or no object."""
    with pytest.raises(ValueError, match=r"."):
        plainjson.loads(data)


def test_what_is_broken_is_refused_without_the_other_half_too() -> None:
    """Where the C half does not find json.decoder's error to raise."""
    check = """
import sys
sys.path.append(sys.argv[1])
from agentd.system import plainjson
for data in %r:
    try:
        plainjson.loads(data)
    except ValueError:
        continue
    raise SystemExit(f"{data!r} was taken")
"""
    root = next(path for path in sys.path if path.endswith("/agent"))
    command = [sys.executable, "-I", "-S", "-c", check % BROKEN, root]

    checked = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (checked.returncode, checked.stderr) == (0, "")
