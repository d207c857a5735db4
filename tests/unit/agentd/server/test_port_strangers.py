"""Ports of a job: nobody else's socket is taken for one of its own."""

from __future__ import annotations

import asyncio
import os
import sys

import pytest

from agentd.errors import PortRefusedError
from agentd.server.runtime.ports import _connect
from agentd.system.ports import UnixPort
from tests.helpers.otheruser import other_user

_LISTEN = """
import signal, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print("listens", flush=True)
signal.pause()
"""


@pytest.mark.root
def test_a_socket_at_which_another_user_listens_is_refused() -> None:
    """Whoever made the path before: it was ours once, perhaps."""
    with other_user() as other:
        path = f"{other.home}/taken.sock"
        python = f"/usr/bin/python{sys.version_info.major}"
        process = other.popen(python, "-I", "-c", _LISTEN, path)
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"listens\n"
            with pytest.raises(PortRefusedError, match="listens there, not you"):
                asyncio.run(_connect(UnixPort(os.fsencode(path))))
        finally:
            process.kill()
            process.communicate()
