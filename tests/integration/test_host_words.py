"""What a person at a terminal is told of hosts."""

from __future__ import annotations

import os
import pty

from tests.helpers.agent import Agent
from tests.helpers.sshrig import SshRig


def at_terminal(agent: Agent, *words: str, typed: bytes = b"") -> tuple[int, str]:
    """Run `agentctl WORDS` at a terminal of its own; return its status and what stood there."""
    ours, theirs = pty.openpty()
    try:
        process = agent.popen(*words, stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)
        os.write(ours, typed)
        shown = bytearray()
        try:
            while block := os.read(ours, 65536):
                shown += block
        except OSError:
            # How a terminal ends (pty(7)).
            pass
        return process.wait(30), shown.decode().replace("\r\n", "\n")
    finally:
        os.close(ours)


def test_an_offer_that_is_declined_is_the_last_word(agent: Agent) -> None:
    """Whoever said no knows that the host is not set up."""
    code, shown = at_terminal(agent, "-H", "gpu9", "ls", typed=b"n\n")

    assert code == 69
    assert shown.count("gpu9 is not set up yet") == 1
    assert shown.rstrip().endswith("[y/N]: n") or shown.rstrip().endswith("[y/N]:")


def test_ctrl_c_is_no_answer_to_the_offer(agent: Agent) -> None:
    """And no fault of the program."""
    code, shown = at_terminal(agent, "-H", "gpu9", "ls", typed=b"\x04")

    assert code == 130
    assert "internal" not in shown


def test_an_empty_listing_says_how_to_begin_there(rig: SshRig) -> None:
    """On the host that was asked."""
    rig.server.start()
    rig.know("gpu1")

    assert at_terminal(rig.client, "-H", "gpu1", "ls")[1] == (
        "no jobs on gpu1 yet; start one with: agentctl -H gpu1 submit -- COMMAND\n"
    )
    code, shown = at_terminal(rig.client, "ls", "--all-hosts")
    assert (code, shown) == (0, "no jobs on these hosts yet\n")
    filtered = at_terminal(rig.client, "ls", "--all-hosts", "--state", "ended")[1]
    assert filtered == "no such job on any of these hosts\n"
