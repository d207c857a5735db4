"""Fixtures of the tests of a whole agent."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.helpers.sshrig import SshRig, Variant, ssh_rig


@pytest.fixture(name="rig")
def _rig(request: pytest.FixtureRequest) -> Iterator[SshRig]:
    """Yield a laptop and a server with sshd between them; the variant is its parameter."""
    variant: Variant = getattr(request, "param", Variant())
    with ssh_rig(variant) as rig:
        yield rig
