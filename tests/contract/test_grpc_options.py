"""gRPC ignores an option it does not know: each name we set must be one of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from grpc._cython import cygrpc  # type: ignore[attr-defined]  # compiled, and not in the stubs

from agentctl.api import line
from agentd.server.edge import listener

_OPTIONS = sorted({name for name, _ in (*listener._OPTIONS, *line.OPTIONS, *line.REMOTE_OPTIONS)})


@pytest.mark.parametrize("name", _OPTIONS)
def test_the_option_exists(name: str) -> None:
    """Its name stands in the compiled library."""
    assert name.encode() in Path(cygrpc.__file__).read_bytes()
