"""The link is cut in every way there is: no byte and no job is lost, none comes twice.

The seed is printed; AGENT_TEST_SEED=… cuts the same in the same order.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.faults.cuts import CUTS, random_cuts
from tests.faults.traffic import submits, traffic
from tests.helpers.jobs import printer
from tests.helpers.sshd import Rules
from tests.helpers.sshrig import SshRig, Variant, ssh_rig
from tests.helpers.wait import dawdle, is_alive, wait_until

#: Bytes a second, about: the pieces are 50 kB long on average.
_PIECE_EVERY_S = 0.05
_MB = 1_000_000
_EXIT_CODE = 7
_CUTS_IN_A_ROW = 8

_VARIANTS = {
    "forward": Variant(),
    "bridge": Variant(rules=Rules(may_forward=False)),
    "two hops": Variant(has_jump=True),
    "noisy bridge": Variant(rules=Rules(may_forward=False), is_noisy=True),
}
_WITHOUT_CABLE = [name for name, cut in CUTS.items() if not cut.needs_cable]
_WITH_CABLE = [name for name, cut in CUTS.items() if cut.needs_cable]


@contextmanager
def _known_rig(variant: Variant) -> Iterator[SshRig]:
    with ssh_rig(variant) as rig:
        rig.know()
        try:
            yield rig
        except BaseException:
            # Into the report of the failed test: the directory is about to go.
            print(rig.server.log()[-4000:], rig.sshd.log[-4000:])  # noqa: T201
            raise


def _cut_once(variant: Variant, name: str) -> None:
    cut = CUTS[name]
    printing = printer(6 * _MB, seed=1, exit_code=_EXIT_CODE, pause_s=_PIECE_EVERY_S)
    with _known_rig(variant) as rig, traffic(rig, printing, _EXIT_CODE) as flow:
        with submits(rig) as submitter:
            flow.follower.wait_for_more(30, "the log before the cut")
            masters = rig.master_pids()
            assert len(masters) == 1
            cut.do(rig)
            flow.follower.wait_for_more(cut.back_within_s, f"the log after the cut: {name}")
            assert not (cut.hits_master and masters & rig.master_pids())
            # One is submitted over the healed link, too.
            before = len(submitter.taken)
            wait_until(lambda: len(submitter.taken) > before, deadline_s=60, what="a submit")
        flow.check(60)
        submitter.check()


@pytest.mark.parametrize("name", _WITHOUT_CABLE)
@pytest.mark.parametrize("way", ["forward", "bridge"])
def test_a_link_that_is_cut_comes_back_and_nothing_is_lost(way: str, name: str) -> None:
    """The log goes on at the exact byte in time; the end told is the job's own."""
    _cut_once(_VARIANTS[way], name)


@pytest.mark.root
@pytest.mark.parametrize("name", _WITH_CABLE)
def test_a_cable_that_is_pulled_and_plugged_loses_nothing(name: str) -> None:
    """What was under way is neither lost nor doubled, whether ssh survived it or not."""
    _cut_once(Variant(has_cable=True), name)


def test_a_client_that_is_killed_and_begun_again_goes_on_where_its_file_ends() -> None:
    """The next client takes over the link and the offset; no byte twice, none missing."""
    printing = printer(6 * _MB, seed=2, exit_code=_EXIT_CODE, pause_s=_PIECE_EVERY_S)
    with _known_rig(Variant()) as rig, traffic(rig, printing, _EXIT_CODE) as flow:
        for _ in range(3):
            flow.follower.wait_for_more(30, "the log before the kill")
            flow.follower.kill()
            flow.follower.begin()
        flow.follower.wait_for_more(30, "the log after the kills")
        assert len(rig.master_pids()) == 1
        flow.check(60)


def test_a_laptop_that_sleeps_goes_on_when_it_wakes() -> None:
    """All of the client's side stands still, its connections are gone meanwhile; then it heals."""
    printing = printer(8 * _MB, seed=3, exit_code=_EXIT_CODE, pause_s=_PIECE_EVERY_S)
    with _known_rig(Variant()) as rig, traffic(rig, printing, _EXIT_CODE) as flow:
        flow.follower.wait_for_more(30, "the log before the sleep")
        sleepers = {flow.follower.process, flow.waiter, flow.watcher}
        for process in sleepers:
            assert process is not None
            process.send_signal(signal.SIGSTOP)
        masters = rig.signal_ssh(signal.SIGSTOP)
        # What the server sends into the sleep is kept by nobody.
        for pid in rig.sshd.session_pids():
            os.kill(pid, signal.SIGKILL)
        dawdle(4.0)
        for pid in masters:
            os.kill(pid, signal.SIGCONT)
        for process in sleepers:
            assert process is not None
            process.send_signal(signal.SIGCONT)
        flow.follower.wait_for_more(12, "the log after the sleep")
        flow.check(60)


@pytest.mark.timeout(280)
@pytest.mark.parametrize("way", _VARIANTS)
def test_many_cuts_in_a_row_lose_nothing(way: str) -> None:
    """Random cuts at random moments, while jobs are submitted and a log is followed."""
    seed = int(os.environ.get("AGENT_TEST_SEED") or random.SystemRandom().randrange(2**32))
    print(f"AGENT_TEST_SEED={seed}")  # noqa: T201  # to run it again
    chance = random.Random(seed)
    printing = printer(30 * _MB, seed=4, exit_code=_EXIT_CODE, pause_s=_PIECE_EVERY_S)
    with _known_rig(_VARIANTS[way]) as rig, traffic(rig, printing, _EXIT_CODE) as flow:
        with submits(rig) as submitter:
            for name in random_cuts(chance, _CUTS_IN_A_ROW):
                dawdle(chance.uniform(0, 1.5))
                CUTS[name].do(rig)
                if chance.random() < 0.7:
                    # Now and then the next one comes while this one is being mended.
                    flow.follower.wait_for_more(30, f"the log after the cut: {name}")
        flow.check(90)
        submitter.check()
        masters = rig.master_pids()
        # Every broken one was ended by whoever replaced it.
        assert len(masters) <= 1
        assert all(map(is_alive, masters))
