"""What a job holds: an upper bound at every look, the charge on demand, and never an error."""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import signal
import subprocess
import sys
import threading

import pytest

from agentd.system.memory.jobs import JobGauge
from agentd.system.memory.tree import Census
from agentd.system.prctl import set_name
from tests.helpers.descriptors import held
from tests.helpers.wait import read_stat, wait_until
from tests.unit.agentd.system.memory.rigs import (
    MIB,
    anonymous,
    charge,
    end,
    fresh,
    gauge_of,
    holder,
    lay_out,
    resident,
    touch,
)
from tests.unit.agentd.system.sandbox import fork, hang, headless, sleeper

_SHARED_BYTES = 48 * MIB
_NOBODY = 65534


@fresh
def test_memory_shared_by_forked_workers_counts_once_for_each_in_the_bound_and_once_in_all() -> (
    None
):
    """The bound proves innocence only; the charge is what there is."""
    memory = anonymous(_SHARED_BYTES, mmap.MAP_SHARED)
    workers = [holder(lambda: touch(memory, _SHARED_BYTES)) for _ in range(4)]
    memory.close()
    gauge = gauge_of(*workers)
    sample, held_charge = charge(gauge)
    assert sample.processes == 4
    assert sample.upper_bytes >= 4 * _SHARED_BYTES
    assert _SHARED_BYTES <= held_charge.held_bytes < 2 * _SHARED_BYTES
    assert held_charge.freeable_bytes == held_charge.held_bytes
    gauge.close()


@fresh
def test_pages_dirtied_after_a_fork_raise_the_charge_and_not_the_bound() -> None:
    """Copy on write: every worker that writes makes its own copy."""
    read_end, write_end = os.pipe()
    memory = anonymous(_SHARED_BYTES)

    def copy() -> None:
        os.read(read_end, 1)
        touch(memory, _SHARED_BYTES)

    workers = [fork(copy, hang) for _ in range(3)]
    gauge = gauge_of(os.getpid())
    upper_before = resident(gauge).upper_bytes
    before = charge(gauge)[1].held_bytes
    os.write(write_end, b"!!!")
    wait_until(
        lambda: charge(gauge)[1].held_bytes >= before + 3 * _SHARED_BYTES - MIB,
        what="three copies charged",
    )
    assert resident(gauge).upper_bytes < upper_before + _SHARED_BYTES
    assert len(workers) == 3
    memory.close()
    gauge.close()


@fresh
def test_a_mapped_file_is_in_the_bound_and_not_in_the_charge(tmp_path: object) -> None:
    """The kernel can drop its pages; weights larger than the limit are no offence."""
    path = os.path.join(str(tmp_path), "weights")
    with open(path, "wb") as file:
        file.write(bytes(64 * MIB))

    def read_mapped() -> mmap.mmap:
        with open(path, "rb") as source:
            mapped = mmap.mmap(source.fileno(), 0, prot=mmap.PROT_READ)
        assert sum(mapped[offset] for offset in range(0, 64 * MIB, 4096)) == 0
        return mapped

    gauge = gauge_of(holder(read_mapped))
    sample, held_charge = charge(gauge)
    assert sample.upper_bytes >= 64 * MIB
    assert held_charge.held_bytes < 32 * MIB
    gauge.close()


@fresh
def test_a_mapped_memfd_is_charged_and_freeable() -> None:
    """It has no name, so it ends with the last process."""

    def fill() -> mmap.mmap:
        descriptor = os.memfd_create("tensors")
        os.ftruncate(descriptor, _SHARED_BYTES)
        mapped = mmap.mmap(descriptor, _SHARED_BYTES)
        touch(mapped, _SHARED_BYTES)
        return mapped

    gauge = gauge_of(holder(fill))
    held_charge = charge(gauge)[1]
    assert held_charge.held_bytes >= _SHARED_BYTES
    assert held_charge.freeable_bytes == held_charge.held_bytes
    gauge.close()


@fresh
def test_a_linked_file_in_dev_shm_is_charged_and_not_freeable() -> None:
    """It outlives the job, so ending the job brings nothing back."""
    name = f"/dev/shm/agentd-test-{os.getpid()}"

    def fill() -> mmap.mmap:
        with open(name, "wb+") as file:
            os.ftruncate(file.fileno(), _SHARED_BYTES)
            mapped = mmap.mmap(file.fileno(), _SHARED_BYTES)
        touch(mapped, _SHARED_BYTES)
        return mapped

    try:
        gauge = gauge_of(holder(fill))
        held_charge = charge(gauge)[1]
        assert held_charge.held_bytes >= _SHARED_BYTES
        assert held_charge.freeable_bytes == held_charge.held_bytes - _SHARED_BYTES
    finally:
        os.unlink(name)
    held_charge = charge(gauge)[1]
    assert held_charge.freeable_bytes == held_charge.held_bytes
    gauge.close()
    assert not os.path.exists(name)


@fresh
def test_a_child_in_its_parents_memory_is_charged_once() -> None:
    """Between vfork(2) and exec both show the whole of it: programs are started all the time."""
    memory = anonymous(_SHARED_BYTES)
    read_end, write_end = os.pipe()

    def start() -> None:
        # A signal handler of C, so that the child runs nothing of ours: it sleeps until killed.
        libc = ctypes.CDLL(None)
        stack = ctypes.create_string_buffer(1 << 16)
        nap = ctypes.cast(libc.pause, ctypes.c_void_p)
        clone_vm = 0x100
        top = ctypes.c_void_p(ctypes.addressof(stack) + (1 << 16) - 64)
        child = libc.clone(nap, top, clone_vm | signal.SIGCHLD, None)
        os.write(write_end, b"%d" % child)

    parent = fork(start, hang)
    child = int(os.read(read_end, 20))
    memory.close()
    gauge = gauge_of(parent)
    sample, held_charge = charge(gauge)
    assert set(gauge.pids) == {parent, child}
    assert sample.upper_bytes >= 2 * _SHARED_BYTES
    assert held_charge.held_bytes < 2 * _SHARED_BYTES
    gauge.close()


@fresh
def test_a_process_that_ends_between_looks_is_counted_no_more() -> None:
    """Its descriptor is given back, and the look is as good as any."""
    before = held()
    one, other = holder(lambda: anonymous(_SHARED_BYTES)), sleeper()
    gauge = gauge_of(one, other)
    assert resident(gauge).processes == 2
    end(one)
    sample = resident(gauge)
    assert (sample.processes, sample.is_partial, gauge.pids) == (1, False, [other])
    assert sample.upper_bytes < _SHARED_BYTES
    end(other)
    assert resident(gauge).upper_bytes == charge(gauge)[1].held_bytes == 0
    gauge.close()
    assert held() <= before


@fresh
def test_a_zombie_holds_nothing() -> None:
    """The leader stands unreaped until its record is written."""
    pid = holder(lambda: anonymous(_SHARED_BYTES))
    gauge = gauge_of(pid)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: (stat := read_stat(pid)) is not None and stat.is_dead, what="a zombie")
    sample = resident(gauge, has_swap=True)
    assert (sample.processes, sample.upper_bytes, gauge.pids) == (0, 0, [pid])
    os.waitpid(pid, 0)
    resident(gauge)
    assert gauge.pids == []
    gauge.close()


@fresh
def test_a_dead_first_thread_hides_no_memory() -> None:
    """The leader is shown as a zombie, while another of its threads holds on to everything."""
    memory = anonymous(_SHARED_BYTES)
    pid = headless()
    memory.close()
    wait_until(lambda: (stat := read_stat(pid)) is not None and stat.is_dead, what="headless")
    gauge = gauge_of(pid)
    for _ in range(2):
        sample, held_charge = charge(gauge)
        assert (sample.processes, sample.is_partial) == (1, False)
        assert sample.upper_bytes >= _SHARED_BYTES
        assert held_charge.held_bytes >= _SHARED_BYTES
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert resident(gauge).upper_bytes == 0
    gauge.close()


@fresh
def test_a_thread_that_ends_hands_over_to_another() -> None:
    """The one whose file is kept open need not be the last."""
    read_end, write_end = os.pipe()

    def behead() -> None:
        threading.Thread(target=os.read, args=(read_end, 1)).start()
        threading.Thread(target=threading.Event().wait).start()
        ctypes.CDLL(None).syscall(60 if os.uname().machine == "x86_64" else 93, 0)

    pid = fork(behead)
    wait_until(lambda: (stat := read_stat(pid)) is not None and stat.is_dead, what="headless")
    gauge = gauge_of(pid)
    before = resident(gauge).upper_bytes
    assert before > 0
    os.write(write_end, b"!")
    wait_until(lambda: len(os.listdir(f"/proc/{pid}/task")) == 2, what="one thread ended")
    assert resident(gauge).upper_bytes > before // 2
    gauge.close()


@pytest.mark.parametrize("name", [") Z 1 (", "a\nTgid:\t1\nPPid:\t1", "a b) S 1"])
@fresh
def test_no_name_of_a_process_misleads(name: str) -> None:
    """A job may call itself what it likes."""
    pid = holder(lambda: set_name(name), lambda: anonymous(_SHARED_BYTES))
    gauge = gauge_of(pid)
    assert charge(gauge)[1].held_bytes >= _SHARED_BYTES
    gauge.close()
    gauge = gauge_of(os.getpid())
    gauge.root = os.getppid()
    resident(gauge)
    child = holder(lambda: set_name(name))
    wait_until(lambda: (resident(gauge), child in gauge.pids)[1], what="the child is found")
    gauge.close()


@fresh
def test_a_name_that_is_no_text_misleads_nobody() -> None:
    """PR_SET_NAME takes any bytes."""

    def rename() -> None:
        ctypes.CDLL(None).prctl(15, b"\xff\xfe\n) R", 0, 0, 0)

    gauge = gauge_of(holder(rename, lambda: anonymous(_SHARED_BYTES)))
    sample, held_charge = charge(gauge)
    assert held_charge.held_bytes >= _SHARED_BYTES
    assert not sample.is_partial
    gauge.close()


@fresh
def test_without_any_descriptor_left_the_last_values_count() -> None:
    """Never an error, and the sample says that it is partial."""
    pid = holder(lambda: anonymous(_SHARED_BYTES))
    census = Census()
    census.descriptors._limit = 0
    gauge = gauge_of(pid, census=census)
    assert resident(gauge).upper_bytes >= _SHARED_BYTES
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    taken = _take_all_descriptors()
    sample = resident(gauge)
    assert sample.is_partial
    assert sample.upper_bytes >= _SHARED_BYTES
    sample, held_charge = charge(gauge)
    assert sample.is_partial
    assert held_charge.held_bytes >= _SHARED_BYTES
    for descriptor in taken:
        os.close(descriptor)
    assert not resident(gauge).is_partial
    gauge.close()
    census.close()


@fresh
def test_kept_descriptors_make_room_when_there_is_no_other() -> None:
    """Then everything can still be measured."""
    workers = [sleeper() for _ in range(20)]
    gauge = gauge_of(os.getpid())
    resident(gauge)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    _take_all_descriptors()
    sample, held_charge = charge(gauge)
    assert (sample.processes, sample.is_partial) == (21, False)
    assert held_charge.held_bytes > 0
    assert len(workers) == 20
    gauge.close()


def _take_all_descriptors() -> list[int]:
    taken: list[int] = []
    while True:
        try:
            taken.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            return taken


@pytest.mark.root
@fresh
def test_another_users_process_counts_by_what_it_shows() -> None:
    """smaps_rollup is refused: shared pages count in full, and the sample says that it guesses."""
    pid = holder(lambda: anonymous(_SHARED_BYTES, mmap.MAP_SHARED))

    def look() -> None:
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
        with pytest.raises(PermissionError):
            open(f"/proc/{pid}/smaps_rollup", "rb").close()
        gauge = JobGauge(7, lambda: [pid])
        sample, held_charge = charge(gauge)
        assert (sample.processes, sample.is_partial) == (1, True)
        assert held_charge.held_bytes >= _SHARED_BYTES
        assert not resident(gauge).is_partial
        gauge.close()

    # In a process of its own: who has dropped root cannot clear up after root.
    assert os.waitpid(fork(look), 0)[1] == 0


@pytest.mark.parametrize("statm", ["", "x y z", "12", "-1 -1 0", "\0\0", "1 " * 4000])
@pytest.mark.parametrize("other", [b"", b"\xff\xfe", b"Pss:", b"Pss: x kB\n", b"VmSwap:\t-1 kB\n"])
def test_odd_contents_never_raise(tmp_path: object, statm: str, other: bytes) -> None:
    """Truncated, empty or senseless: the gauge answers, and no number is below zero."""
    directory = lay_out(
        str(tmp_path),
        {"5/statm": statm, "5/smaps_rollup": other, "5/status": other, "loadavg": other},
    )
    gauge = JobGauge(7, lambda: [5, 6], Census(proc=directory))
    for at_ns in range(3):
        for sample in (
            gauge.resident(at_ns, has_swap=True, eager=True),
            gauge.charge(at_ns, has_swap=True),
        ):
            assert sample.upper_bytes >= 0
            assert sample.charge is None or sample.charge.held_bytes >= 0
    gauge.close()


def test_before_the_share_was_split_files_are_kept_out_by_what_status_says(
    tmp_path: object,
) -> None:
    """Linux 4.14 to 5.8: Pss holds file pages as well."""
    rollup = (
        b"55dc-7fff ---p 00000000 00:00 0  [rollup]\nRss: 9000 kB\nPss: 8000 kB\nSwapPss: 5 kB\n"
    )
    status = b"Name:\tx\nRssAnon:\t    1000 kB\nRssFile:\t 7500 kB\nRssShmem:\t     500 kB\n"
    directory = lay_out(
        str(tmp_path),
        {"5/statm": "9000 2250 2000 1 0 1 0\n", "5/smaps_rollup": rollup, "5/status": status},
    )
    gauge = JobGauge(7, lambda: [5], Census(proc=directory))
    sample, held_charge = charge(gauge)
    assert held_charge.held_bytes == 1505 << 10
    assert not sample.is_partial
    gauge.close()


@fresh
def test_swap_counts_where_the_host_has_some(tmp_path: object) -> None:
    """A job that swaps must not look small."""
    directory = lay_out(
        str(tmp_path),
        {"5/statm": "9000 100 1 1 0 1 0\n", "5/status": b"Name:\tx\nVmSwap:\t    4096 kB\n"},
    )
    gauge = JobGauge(7, lambda: [5], Census(proc=directory))
    assert resident(gauge).upper_bytes == 100 * mmap.PAGESIZE
    assert resident(gauge, has_swap=True).upper_bytes == 100 * mmap.PAGESIZE + (4096 << 10)
    gauge.close()


@fresh
def test_programs_started_all_the_time_never_raise_the_charge_twofold() -> None:
    """A large parent with a storm of children that exec at once."""

    def storm() -> None:
        while True:
            subprocess.run([sys.executable, "-I", "-S", "-c", ""], check=True, close_fds=False)

    memory = anonymous(_SHARED_BYTES)
    parent = fork(storm)
    memory.close()
    gauge = gauge_of(parent)
    most = max(charge(gauge)[1].held_bytes for _ in range(200))
    assert most < 2 * _SHARED_BYTES
    gauge.close()
