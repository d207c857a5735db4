"""The guard as the warden's most urgent duty: look, ask the policy, act, and again.

The policy is pure and knows everything by `Look`; what it wants is done at once and in order.
A look that leads to an act is followed by the next one in the same turn, until the policy can
wait or the turn has had its share.
"""

from __future__ import annotations

import math
import select
import signal
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from agentd.core.contract import GuardNotice, Message, Pause, ReportGuard, Resume, SetGuard
from agentd.core.guard.adopt import adopt
from agentd.core.guard.model import Act, HostSample, JobSample, Look, NextLook, Rules, Thaw
from agentd.core.guard.observe import has_just_crossed
from agentd.core.guard.policy import decide
from agentd.core.guard.state import Memory, Running
from agentd.errors import RecordCorruptError
from agentd.paths import Paths
from agentd.system import jobdir
from agentd.system.complaint import complain
from agentd.system.memory import leftovers
from agentd.system.memory.host import HostGauge
from agentd.system.memory.pressure import PressureTrigger, open_trigger
from agentd.system.memory.tree import Census
from agentd.warden.guard import papers, report
from agentd.warden.guard.hands import FREEZE_SLICE_S, Hands, job_of
from agentd.warden.guard.journal import Entry, Journal, Phase
from agentd.warden.guard.reader import SpawnedReader
from agentd.warden.guard.ward import Ward
from agentd.warden.loop import Loop
from agentd.warden.minded import MindedJob, rules_from
from agentd.warden.shims import Shims

#: Looks of one turn; more wait for the next, so that the rest of the warden lives on.
_LOOKS_IN_A_ROW = 8
_NOTICES_KEPT = 50
#: A look planned sooner than this is near a mark: no new process may be missed then.
_NEAR_NS = 100_000_000
#: For how long a report of stalls counts.
_PRESSURE_NS = 2_000_000_000
_AFTER_DEFECT_S = 0.1
#: Jobs that begin within so long are looked at together.
_SOON_S = 0.02
#: How often files in /dev/shm are attributed, with so much in there at least; the maps of many
#: processes take long, and no more than a two-hundredth of the time.
_SHARED_LOOK_NS = 2_000_000_000
_SHARED_COST_FACTOR = 200
_SHARED_WORTH_BYTES = 16 << 20
#: Less than this is left behind without a word.
_LEFT_WORTH_BYTES = 1 << 20
#: How long a look waits at least for page tables that somebody reads.
_MEASURING_NS = 4_000_000
_SAMPLING = "sampling: memory of host and jobs, every 2 ms near a mark, each second far from all"
_NS = 1_000_000_000


class Guard:
    """Guards the host's memory and the jobs' limits."""

    def __init__(
        self, paths: Paths, shims: Shims, tell: Callable[[Message], bool], residency: str
    ) -> None:
        """Begin; see `take_up`.

        Args:
            paths: The agent's.
            shims: The jobs, and the way to their shims.
            tell: Passes a message to the server; False if none takes it now.
            residency: Whether this process stays in RAM, in words.

        """
        self._residency = residency
        self._paths = paths
        self._shims = shims
        self._tell = tell
        self._policy = papers.read_policy(paths.guard_policy)
        self._memory = Memory()
        self._census = Census(reader=SpawnedReader(shims))
        self._host = HostGauge(descriptors=self._census.descriptors)
        self._pressure = open_trigger()
        self._pressed_until_ns = 0
        self._journal = Journal(paths.guard_state)
        self._hands = Hands(paths, shims, self._journal, self._notify)
        self._wards: dict[int, Ward] = {}
        #: All of a look that changes with `Shims.revision` only.
        self._scene = Look(0, HostSample(0, 0, 0))
        self._seen_revision = -1
        self._resumed: set[int] = set()
        self._next = NextLook(0)
        self._due_s = 0.0
        self._peek_s = math.inf
        self._looked_s = 0.0
        #: The host has lost so much that this look comes before its time.
        self._is_hurried = False
        #: Some charge that was asked for is still to come.
        self._is_measuring = False
        #: What the last guard was about with jobs that no shim has spoken for yet.
        self._to_take_up: dict[int, Entry] = {}
        #: Acts that failed, to be done at the next look.
        self._undone: list[Act] = []
        self._trouble = ""
        #: Reports that were asked for.
        self._questions: list[int] = []
        self._shared_look_ns = 0
        self._notices: deque[GuardNotice] = deque(maxlen=_NOTICES_KEPT)
        self._untold: deque[GuardNotice] = deque(maxlen=_NOTICES_KEPT)

    # What the loop asks.

    def due_s(self) -> float | None:
        """Return when to look again, on the monotonic clock."""
        if self._shims.has_limited_start:
            return 0.0
        if self._shims.has_start:
            # A guard with nobody to guard looks once a second: too late for whoever begins now.
            return min(self._due_s, self._peek_s, self._looked_s + _SOON_S)
        return min(self._due_s, self._peek_s)

    def run(self) -> None:
        """Look and act until the policy can wait."""
        if self._peek():
            return
        self._shims.has_start = self._shims.has_limited_start = False
        self._looked_s = time.monotonic()
        # Should this look fail, the next one is not to come at once.
        self._due_s, self._peek_s = time.monotonic() + _AFTER_DEFECT_S, math.inf
        for _ in range(_LOOKS_IN_A_ROW):
            self._look()
            if self._next.after_ns > 0 or self._is_measuring:
                break
        shortest_ns = _MEASURING_NS if self._is_measuring else 0
        self._due_s = time.monotonic() + max(self._next.after_ns, shortest_ns) / _NS
        self._is_hurried = False
        self._plan_peek()

    def _peek(self) -> bool:
        """Look at the host's memory alone; False if there is more to look at now."""
        peek = self._next.peek
        has_started = self._shims.has_start or self._shims.has_limited_start
        if peek is None or has_started or time.monotonic() >= self._due_s:
            return False
        self._is_hurried = self._host.read(time.monotonic_ns()).available_bytes < peek.below_bytes
        self._plan_peek()
        return not self._is_hurried

    def _plan_peek(self) -> None:
        peek = self._next.peek
        self._peek_s = math.inf if peek is None else time.monotonic() + peek.every_ns / _NS

    def watch_pressure(self, loop: Loop) -> None:
        """Be woken when the kernel reports stalls, where it can."""
        if isinstance(self._pressure, PressureTrigger):
            descriptor = self._pressure.fileno()
            loop.watch(descriptor, lambda events: self._pressed(loop, events), select.EPOLLPRI)

    def _pressed(self, loop: Loop, events: int) -> None:
        if isinstance(self._pressure, PressureTrigger) and events & select.EPOLLERR:
            loop.forget(self._pressure.fileno())
            self._pressure.close()
            self._pressure = "the kernel has taken its trigger back"
            return
        self._pressed_until_ns = time.monotonic_ns() + _PRESSURE_NS
        self._due_s = 0.0

    # What the warden asks.

    def take_up(self) -> None:
        """Continue what the last warden was about; after the adoption."""
        self._refresh()
        for job_id, entry in list(self._journal.entries.items()):
            ward = self._wards.get(job_id)
            if ward is not None:
                self._take_up(ward, entry)
            elif self._shims.find(job_id) is None:
                self._journal.drop(job_id)
            else:
                # What it is about is not known before its shim has spoken.
                self._to_take_up[job_id] = entry

    def _take_up(self, ward: Ward, entry: Entry) -> None:
        was = self._hands.continue_with(ward, entry)
        self._memory = adopt(self._memory, ward.job_id, was)

    def let_go(self) -> None:
        """Leave no job frozen that nobody would judge any more: the agent ends."""
        for job_id, entry in list(self._journal.entries.items()):
            ward = self._wards.get(job_id)
            if entry.phase is Phase.FROZEN and ward is not None:
                self._undone.append(Thaw(job_id))
        self._act()

    def set_policy(self, order: SetGuard) -> None:
        """Go by another policy from now on."""
        self._policy = papers.policy_of(order)
        self._due_s = 0.0
        try:
            papers.write_policy(self._paths.guard_policy, order)
        except OSError as error:
            complain(f"guard: cannot keep its policy: {error}")

    def heed(self, order: Pause | Resume) -> None:
        """Give way to the user: who pauses or resumes a job has the say over it from then on."""
        ward = self._wards.get(order.job_id)
        entry = self._journal.entries.get(order.job_id)
        if ward is None or entry is None or entry.phase not in {Phase.FROZEN, Phase.HELD}:
            return
        if isinstance(order, Resume):
            if entry.phase is Phase.FROZEN:
                # It is being measured; what comes of that comes after this resume.
                return
            self._resumed.add(order.job_id)
        ward.freezing = None
        self._journal.drop(order.job_id)
        self._seen_revision = -1

    def answer(self, question: ReportGuard) -> None:
        """Tell the server how the guard sees host and jobs, once all were looked at."""
        self._questions.append(question.number)
        self._due_s = 0.0

    def _report(self) -> None:
        layers = (_SAMPLING, self._pressure_layer(), f"the warden is {self._residency}")
        for number in self._questions:
            self._tell(report.make(number, self._policy, self._memory, layers, self._notices))
        self._questions.clear()

    def _pressure_layer(self) -> str:
        if isinstance(self._pressure, PressureTrigger):
            return "pressure trigger (PSI): woken by stalls of 0.2 s within 2 s"
        return f"no pressure trigger: {self._pressure}"

    def greet(self) -> None:
        """Tell a new server what no server has heard yet."""
        while self._untold and self._tell(self._untold[0]):
            self._untold.popleft()

    # One look.

    def _look(self) -> None:
        if self._shims.revision != self._seen_revision:
            self._refresh()
        at_ns = time.monotonic_ns()
        host = self._host.read(at_ns)
        if at_ns < self._pressed_until_ns:
            host = replace(host, under_pressure=True)
        # Who grows may be known well enough to be stopped: many processes take long to look at.
        is_urgent = has_just_crossed(self._memory, self._policy, host)
        samples = {} if is_urgent else self._measure(at_ns, host)
        self._is_measuring = any(sample.is_measuring for sample in samples.values())
        self._act()
        look = replace(
            self._scene,
            at_ns=at_ns,
            host=host,
            jobs=samples,
            resumed=frozenset(self._resumed),
        )
        self._hands.is_dry = self._policy.dry_run
        self._hands.is_off = not self._policy.enabled
        decision = decide(self._policy, self._memory, look)
        self._memory, self._next = decision.memory, decision.next
        self._resumed.clear()
        self._undone += decision.acts
        self._act()
        self._give_up()
        if at_ns >= self._shared_look_ns or self._questions:
            self._look_at_shared(at_ns)
        if self._questions:
            self._report()

    def _give_up(self) -> None:
        """Drop from the journal whom the policy left to the user without an act."""
        for job_id, entry in list(self._journal.entries.items()):
            track = self._memory.jobs.get(job_id)
            is_ours = entry.phase in {Phase.FROZEN, Phase.HELD}
            if not is_ours or track is None or not isinstance(track.stage, Running):
                continue
            if all(job_of(act) != job_id for act in self._undone):
                self._journal.drop(job_id)
                self._seen_revision = -1

    def _act(self) -> None:
        """Do what is to be done; what fails for want of descriptors or memory is done again."""
        undone, self._undone = self._undone, []
        if undone:
            # Whom the user paused and whom we did is another question after each act.
            self._seen_revision = -1
        for act in undone:
            job_id = job_of(act)
            try:
                self._hands.carry_out(act, None if job_id is None else self._wards.get(job_id))
            except OSError as error:
                self._census.descriptors.give_back()
                self._say_once(f"cannot {type(act).__name__.lower()} job {job_id}: {error}")
                self._undone.append(act)

    def _say_once(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._trouble = trouble
            complain(f"guard: {trouble}")

    def _look_at_shared(self, at_ns: int) -> None:
        """Note whose files in memory are whose: after a job's end nothing tells any more."""
        if leftovers.used_bytes() >= _SHARED_WORTH_BYTES:
            for ward in self._wards.values():
                ward.note_shared_files()
        cost_ns = time.monotonic_ns() - at_ns
        self._shared_look_ns = at_ns + max(_SHARED_LOOK_NS, _SHARED_COST_FACTOR * cost_ns)

    def _measure(self, at_ns: int, host: HostSample) -> dict[int, JobSample]:
        samples: dict[int, JobSample] = {}
        has_swap = host.swap_free_bytes < host.swap_total_bytes
        eager = self._next.after_ns <= _NEAR_NS or self._is_hurried
        wanted = self._wards.keys() if self._questions else self._next.jobs | self._next.charges
        for job_id in wanted:
            ward = self._wards.get(job_id)
            if ward is None:
                continue
            try:
                sample = self._sample(ward, at_ns, eager=eager, has_swap=has_swap)
            except OSError as error:
                self._census.descriptors.give_back()
                self._say_once(f"cannot look at job {job_id}: {error}")
                continue
            if sample is not None:
                samples[job_id] = sample
        return samples

    def _sample(self, ward: Ward, at_ns: int, *, eager: bool, has_swap: bool) -> JobSample | None:
        if ward.freezing is not None and not ward.freezing.is_complete:
            # Measured while it still grows it would only have to be measured again.
            ward.freezing.go_on(FREEZE_SLICE_S)
            return None
        if ward.job_id in self._next.charges:
            return ward.charge(at_ns, has_swap=has_swap)
        return ward.resident(at_ns, has_swap=has_swap, eager=eager)

    def _refresh(self) -> None:
        """See which jobs run now, and how."""
        self._seen_revision = self._shims.revision
        jobs = {job.job_id: job for job in self._shims.running()}
        for job_id in self._wards.keys() - jobs.keys():
            self._let_go_of(self._wards.pop(job_id))
            if self._shims.find(job_id) is None:
                self._journal.drop(job_id)
        for job_id, job in jobs.items():
            if job_id not in self._wards:
                self._wards[job_id] = Ward(job, self._census)
                entry = self._to_take_up.pop(job_id, None)
                if entry is not None:
                    self._take_up(self._wards[job_id], entry)
        ours = {
            job_id
            for job_id, entry in self._journal.entries.items()
            if entry.phase in {Phase.FROZEN, Phase.HELD}
        }
        for job_id in ours & jobs.keys():
            self._see_stopping(self._wards[job_id])
        # A rescue shim takes every stopped leader for a paused one.
        by_user = frozenset(i for i, j in jobs.items() if j.view.phase == "paused") - ours
        self._scene = Look(
            0,
            HostSample(0, 0, 0),
            rules={job_id: _rules(job) for job_id, job in jobs.items()},
            paused=by_user,
            stopping=frozenset(i for i, j in jobs.items() if j.view.phase == "stopping"),
        )

    def _let_go_of(self, ward: Ward) -> None:
        ward.close()
        left = leftovers.orphaned(ward.shared_files) if ward.shared_files else ()
        if sum(leftover.size_bytes for leftover in left) >= _LEFT_WORTH_BYTES:
            self._hands.tell_leftovers(ward.job_id, left)

    def _see_stopping(self, ward: Ward) -> None:
        """Let a job go on that somebody stops: it is to see its SIGTERM within the grace."""
        if ward.job.view.phase == "stopping":
            ward.freezing = None
            ward.tree.send(signal.SIGCONT)
            self._journal.drop(ward.job_id)

    def _notify(self, notice: GuardNotice) -> None:
        self._notices.append(notice)
        if self._untold or not self._tell(notice):
            self._untold.append(notice)


def _rules(job: MindedJob) -> Rules:
    if job.rules is None:
        try:
            spec = jobdir.read_spec(job.directory)
        except (RecordCorruptError, OSError):
            spec = None
        job.rules = Rules(job.job_id) if spec is None else rules_from(spec)
    if job.rules.started_at_ns != job.view.started_at_ns:
        job.rules = replace(job.rules, started_at_ns=job.view.started_at_ns)
    return job.rules
