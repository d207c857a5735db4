"""The kernel's pressure trigger, or why there is none."""

from __future__ import annotations

import os
import select

from agentd.system.memory.pressure import PressureTrigger, open_trigger
from tests.helpers.descriptors import held
from tests.unit.agentd.system.sandbox import fork, isolated


@isolated
def test_the_real_kernel_takes_it_from_anybody_or_says_why_not() -> None:
    """The unprivileged form, asked for as root and as nobody."""
    before = held()
    _open_and_look()
    if os.geteuid() == 0:
        assert (
            os.waitpid(fork(lambda: os.setresuid(65534, 65534, 65534), _open_and_look), 0)[1] == 0
        )
    assert held() <= before


def _open_and_look() -> None:
    trigger = open_trigger()
    if isinstance(trigger, str):
        assert trigger
        return
    waiter = select.epoll()
    waiter.register(trigger.fileno(), select.EPOLLPRI)
    # Whether there is pressure now is not ours to say; that looking uses it up is.
    assert trigger.fired() in {True, False}
    assert not trigger.fired()
    assert all(event & select.EPOLLERR == 0 for _, event in waiter.poll(0))
    waiter.close()
    trigger.close()
    trigger.close()
    assert (trigger.fileno(), trigger.fired()) == (-1, False)


@isolated
def test_a_kernel_that_refuses_is_a_reason_in_words(tmp_path: object) -> None:
    """No such file, not ours to write, and a file that takes no trigger."""
    before = held()
    assert open_trigger(f"{tmp_path}/none") == (
        "the kernel keeps no pressure information (CONFIG_PSI)"
    )
    # The write of a trigger to this one is refused with EINVAL, as to a kernel before 6.4.
    assert open_trigger("/proc/self/oom_score_adj") == (
        "the kernel takes no trigger of this form (before Linux 6.4)"
    )
    assert isinstance(open_trigger(str(tmp_path)), str)
    assert held() <= before


def test_a_pipe_with_nothing_urgent_has_not_fired() -> None:
    """Ordinary data is no event."""
    read_end, write_end = os.pipe()
    os.write(write_end, b"!")
    trigger = PressureTrigger(read_end)
    assert not trigger.fired()
    trigger.close()
    os.close(write_end)
