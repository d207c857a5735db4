"""Fixtures of the tests of a whole agent."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agentctl.link.ssh import SshLink
from tests.helpers.sshlinks import proved_link
from tests.helpers.sshrig import SshRig, Variant, ssh_rig


@pytest.fixture(name="rig")
def _rig(request: pytest.FixtureRequest) -> Iterator[SshRig]:
    """Yield a laptop and a server with sshd between them; the variant is its parameter."""
    variant: Variant = getattr(request, "param", Variant())
    with ssh_rig(variant) as rig:
        yield rig


@pytest.fixture(name="link")
def _link(rig: SshRig) -> Iterator[SshLink]:
    """Yield a link to the rig's server that has not connected; its end is proved."""
    with proved_link(rig) as link:
        yield link
