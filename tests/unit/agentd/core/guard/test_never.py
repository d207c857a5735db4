"""What must never happen, over random histories of a small host."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentd.core.guard.model import (
    Act,
    CameBack,
    Freeze,
    GuardPolicy,
    Hold,
    Kill,
    Level,
    Look,
    MemAction,
    Release,
    Tell,
    Terminate,
    Thaw,
)
from agentd.core.guard.state import Frozen
from agentd.core.guard.turn import FRESH_NS
from agentd.core.guard.units import GIB, MS_NS, S_NS
from agentd.core.guard.watermarks import watermarks
from tests.helpers.guardsim import Sim, SimJob, gib, mib

#: More looks than measuring a job that can be measured ever takes.
_LOOKS_TO_JUDGE = 12

_jobs: st.SearchStrategy[list[dict]] = st.lists(
    st.builds(
        dict,
        size_bytes=st.integers(0, gib(5)),
        rate_bytes_per_s=st.sampled_from([0, 0, 0, mib(20), mib(300), gib(1), gib(4)]),
        limit_bytes=st.sampled_from([None, None, gib(1), gib(3), gib(6)]),
        action=st.sampled_from(list(MemAction)),
        preemptible=st.booleans(),
        ignores_term=st.booleans(),
        upper_factor=st.sampled_from([1.0, 1.0, 1.3, 8.0]),
        grace_s=st.sampled_from([0.0, 0.5, 10.0]),
        started_at_ns=st.integers(1, 5),
    ),
    min_size=1,
    max_size=4,
)
_DOINGS = ["pause", "resume", "continue", "stop", "grow", "calm", "others", "gap", "fork"]
#: What users do, to the n-th job, after so many looks: and what others on the host do.
_doings = st.lists(
    st.tuples(
        st.sampled_from(_DOINGS),
        st.integers(0, 3),
        st.integers(1, 60),
    ),
    max_size=12,
)
_calm = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Witness:
    """Looks at every decision and remembers what was done to whom."""

    def __init__(self) -> None:
        """Nothing was seen yet."""
        self.acted_ns: dict[int, int] = {}
        self.samples: dict[int, list[int]] = {}
        self.frozen_looks: dict[int, int] = {}

    def __call__(self, sim: Sim, look: Look, acts: tuple[Act, ...]) -> None:
        """Check one look and what came of it."""
        for job_id, sample in look.jobs.items():
            self.samples.setdefault(job_id, []).append(sample.at_ns)
        for act in acts:
            self._check(sim, look, act)
        self._count_frozen(sim)

    def _check(self, sim: Sim, look: Look, act: Act) -> None:
        if isinstance(act, Tell | CameBack):
            return
        job_id = act.verdict.job_id if isinstance(act, Hold | Terminate | Kill) else _job_of(act)
        job = sim.jobs[job_id]
        assert not job.is_gone, "an act on a job that has ended"
        if isinstance(act, Hold | Terminate | Kill | Freeze):
            newest_ns = max(self.samples.get(job_id, [-1]))
            assert look.at_ns - newest_ns <= FRESH_NS, "an act on a stale sample"
            assert newest_ns > self.acted_ns.get(job_id, -1), "an act on what was before one"
            if not (isinstance(act, Freeze) and _is_suspect(sim, look, job_id)):
                _check_guilt(sim, look, job)
        if job.is_paused_by_user and not job.is_continued:
            assert isinstance(act, Terminate | Kill), "the user's pause was touched"
            assert sim.memory.level >= Level.TERM
        if isinstance(act, Terminate | Kill | Hold | Thaw | Release | Freeze):
            self.acted_ns[job_id] = look.at_ns

    def _count_frozen(self, sim: Sim) -> None:
        frozen = {job_id for job_id, t in sim.memory.jobs.items() if isinstance(t.stage, Frozen)}
        self.frozen_looks = {job_id: self.frozen_looks.get(job_id, 0) + 1 for job_id in frozen}
        assert max(self.frozen_looks.values(), default=0) <= _LOOKS_TO_JUDGE, "forgotten frozen"
        for job_id, job in sim.jobs.items():
            is_users = job.is_paused_by_user and not job.is_continued
            if not job.is_stopped or is_users or job.ending_ns or job.is_gone:
                continue
            stage = type(sim.memory.jobs[job_id].stage).__name__
            # The acts of this look are done after the check: running now means thawed by it.
            assert stage in {"Frozen", "Held", "Ending"} or any(
                done.at_ns == sim.at_ns and _job_of(done.act) == job_id for done in sim.done
            ), "stopped and forgotten"


def _job_of(act: Act) -> int:
    return act.job_id if isinstance(act, Freeze | Thaw | Release) else -1


def _is_suspect(sim: Sim, look: Look, job_id: int) -> bool:
    """Whether it may be stopped to be measured: the host has lost all it was short of its limit."""
    track = sim.memory.jobs[job_id]
    if track.proof is None or track.rules.limit_bytes is None:
        return False
    lost_bytes = track.proof.host_available_bytes - look.host.available_bytes
    return lost_bytes > track.rules.limit_bytes - track.proof.held_bytes


def _check_guilt(sim: Sim, look: Look, job: SimJob) -> None:
    """Nobody under its limit is acted on while the host is well."""
    if look.host.available_bytes >= watermarks(sim.policy.marks, sim.total_bytes).warn_bytes:
        is_over = job.limit_bytes is not None and job.size_bytes > job.limit_bytes
        assert is_over or sim.memory.jobs[job.job_id].rules.limit_bytes is None, "innocent"
        assert is_over or _was_convicted(sim, job), "innocent"


def _was_convicted(sim: Sim, job: SimJob) -> bool:
    return any(
        isinstance(done.act, Hold | Terminate) and done.act.verdict.job_id == job.job_id
        for done in sim.done
    )


def _play(sim: Sim, jobs: list[dict], doings: list[tuple[str, int, int]]) -> Sim:
    sim.add(*(SimJob(number, **body) for number, body in enumerate(jobs)))
    for what, number, looks in [*doings, ("nothing", 0, 150)]:
        _do(sim, what, sim.jobs[number % len(sim.jobs)])
        for _ in range(looks):
            sim.look()
            sim.pass_time(max(sim.plan.after_ns, MS_NS // 5))
    return sim


def _do(sim: Sim, what: str, job: SimJob) -> None:
    if what == "others":
        sim.others_rate_bytes_per_s = gib(1) if sim.others_rate_bytes_per_s <= 0 else -gib(1)
    if what == "gap":
        sim.pass_time(30 * S_NS)
    if job.is_gone or job.ending_ns is not None:
        return
    # To the shim a job that was continued behind its back is paused already.
    if what == "pause" and not job.is_stopped and not job.is_paused_by_user:
        sim.pause_by_user(job.job_id)
    elif what == "resume":
        sim.resume_by_user(job.job_id)
    elif what == "continue":
        sim.continue_from_outside(job.job_id)
    elif what == "stop":
        sim.stop_by_user(job.job_id, job.grace_s)
    elif what in {"grow", "calm"}:
        job.rate_bytes_per_s = gib(2) if what == "grow" else 0
    elif what == "fork" and not job.is_stopped:
        job.upper_factor = 8.0


@given(_jobs, _doings)
@_calm
def test_every_act_rests_on_fresh_guilt_and_nothing_stays_frozen(
    jobs: list[dict], doings: list[tuple[str, int, int]]
) -> None:
    """No innocent, no stale sample, no pause of the user touched, no frozen job forgotten."""
    _play(Sim(check=Witness()), jobs, doings)


@given(_jobs, _doings)
@_calm
def test_a_dry_run_only_talks(jobs: list[dict], doings: list[tuple[str, int, int]]) -> None:
    """And remembers nothing that did not happen."""
    sim = _play(Sim(policy=GuardPolicy(dry_run=True)), jobs, doings)

    assert all(isinstance(act, Tell) for act in sim.acts())
    assert all(type(t.stage).__name__ == "Running" for t in sim.memory.jobs.values())
    times_ns = [done.at_ns for done in sim.done]
    assert all(b - a >= S_NS for a, b in pairwise(times_ns))


@given(_jobs, _doings)
@_calm
def test_a_guard_that_is_off_does_nothing(
    jobs: list[dict], doings: list[tuple[str, int, int]]
) -> None:
    """Not even talk."""
    sim = _play(Sim(policy=GuardPolicy(enabled=False)), jobs, doings)

    assert sim.acts() == []


@given(st.lists(st.integers(0, gib(4)), min_size=1, max_size=4), st.integers(mib(50), gib(10)))
@_calm
def test_nobody_pays_for_what_others_took(sizes: list[int], rate_bytes_per_s: int) -> None:
    """However fast it goes, down to the last byte."""
    sim = Sim().add(*(SimJob(n, size) for n, size in enumerate(sizes)))
    sim.run(3)
    sim.others_rate_bytes_per_s = rate_bytes_per_s
    for _ in range(300):
        sim.look()
        sim.pass_time(max(sim.plan.after_ns, MS_NS // 5))

    assert all(isinstance(act, Tell) for act in sim.acts())


@given(
    st.lists(st.integers(mib(100), gib(1.5)), min_size=1, max_size=4),
    st.integers(mib(300), gib(8)),
    st.integers(0, mib(400)),
)
@_calm
def test_one_end_that_is_enough_is_the_only_one(
    sizes: list[int], rate_bytes_per_s: int, others_bytes_per_s: int
) -> None:
    """A hog that holds more than the host lacks: whoever else runs goes on."""
    sim = Sim().add(*(SimJob(n, size) for n, size in enumerate(sizes)), SimJob(9, 0))
    sim.run(3)
    sim.jobs[9].rate_bytes_per_s = rate_bytes_per_s
    for _ in range(3000):
        sim.look()
        if sim.acts(Hold, Terminate, Kill):
            break
        sim.pass_time(max(sim.plan.after_ns, MS_NS // 5))
    sim.others_rate_bytes_per_s = others_bytes_per_s
    sim.run(4)

    assert [job.job_id for job in sim.jobs.values() if job.is_gone] in ([], [9])


@given(st.integers(mib(300), gib(12)), st.integers(0, 10**9))
@_calm
def test_a_hog_is_stopped_before_the_kill_mark(rate_bytes_per_s: int, phase_ns: int) -> None:
    """Wherever between two looks it begins."""
    sim = Sim(total_bytes=64 * GIB).add(SimJob(1, gib(1)), SimJob(2, 0))
    sim.run(3)
    sim.pass_time(phase_ns)
    sim.jobs[2].rate_bytes_per_s = rate_bytes_per_s
    for _ in range(5000):
        sim.look()
        if sim.acts(Freeze):
            break
        sim.pass_time(max(sim.plan.after_ns, MS_NS // 5))

    (freeze,) = [done for done in sim.done if isinstance(done.act, Freeze)]
    assert freeze.act == Freeze(2)
    assert freeze.available_bytes > watermarks(sim.policy.marks, sim.total_bytes).kill_bytes


@given(_jobs, _doings)
@_calm
def test_looks_come_at_the_pace(jobs: list[dict], doings: list[tuple[str, int, int]]) -> None:
    """Between two milliseconds and a second, or at once for a charge or the unseen jobs."""
    sim = _play(Sim(), jobs, doings)

    assert all(delay_ns == 0 or 2 * MS_NS <= delay_ns <= S_NS for delay_ns in sim.delays_ns)
