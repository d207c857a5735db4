"""A small host in virtual time for the guard's policy: jobs that grow, obey or ignore signals.

No clock, no processes: what `agentd.core.guard.policy` decides is done to numbers, so that
thousands of histories can be played in a second.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from agentd.core.guard.model import (
    Act,
    Charge,
    Freeze,
    GuardPolicy,
    Hold,
    HostSample,
    JobSample,
    Kill,
    Look,
    MemAction,
    NextLook,
    Release,
    Rules,
    Terminate,
    Thaw,
)
from agentd.core.guard.observe import has_just_crossed
from agentd.core.guard.policy import Memory, decide
from agentd.core.guard.units import GIB, MIB, MS_NS, S_NS

#: What measuring a charge takes.
_CHARGE_NS = 3 * MS_NS


@dataclass
class SimJob:
    """One job. `upper_factor`: how often what it holds is counted by its resident sets."""

    job_id: int
    size_bytes: int = 0
    rate_bytes_per_s: int = 0
    limit_bytes: int | None = None
    action: MemAction = MemAction.KILL
    preemptible: bool = False
    ignores_term: bool = False
    upper_factor: float = 1.0
    grace_s: float = 10.0
    started_at_ns: int = 1
    most_bytes: int = 1 << 62
    #: How long its page tables take to be read, beside the guard; from when they are.
    reading_ns: int = 0
    #: What a look at its tree takes.
    look_ns: int = MS_NS // 10
    read_since_ns: int | None = None
    read_bytes: int = 0
    is_stopped: bool = False
    is_paused_by_user: bool = False
    #: Somebody sent it a SIGCONT of which neither guard nor shim knows.
    is_continued: bool = False
    ending_ns: int | None = None
    dies_ns: int | None = None
    gone_ns: int | None = None

    @property
    def is_gone(self) -> bool:
        """Whether no process of it is left."""
        return self.gone_ns is not None

    def rules(self) -> Rules:
        """Return what its owner asked for."""
        return Rules(
            self.job_id,
            self.limit_bytes,
            self.action,
            self.preemptible,
            self.grace_s,
            self.started_at_ns,
        )


@dataclass
class Done:
    """An act, when, and what the host had then."""

    at_ns: int
    act: Act
    available_bytes: int


@dataclass
class Sim:
    """Host, jobs, and a guard that is asked as the warden would ask it."""

    jobs: dict[int, SimJob] = field(default_factory=dict)
    policy: GuardPolicy = field(default_factory=GuardPolicy)
    total_bytes: int = 24 * GIB
    others_bytes: int = 2 * GIB
    others_rate_bytes_per_s: int = 0
    #: How long freed memory takes to be seen.
    freeing_ns: int = 30 * MS_NS
    at_ns: int = 1000 * S_NS
    memory: Memory = field(default_factory=Memory)
    plan: NextLook = field(default_factory=lambda: NextLook(0))
    done: list[Done] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)
    delays_ns: list[int] = field(default_factory=list)
    resumed: set[int] = field(default_factory=set)
    check: Callable[[Sim, Look, tuple[Act, ...]], None] | None = None

    @property
    def available_bytes(self) -> int:
        """Return what the host has available."""
        used = self.others_bytes + sum(self._counted(job) for job in self.jobs.values())
        return max(0, self.total_bytes - used)

    def _counted(self, job: SimJob) -> int:
        if job.gone_ns is not None and self.at_ns - job.gone_ns >= self.freeing_ns:
            return 0
        return job.size_bytes

    def add(self, *jobs: SimJob) -> Sim:
        """Let jobs begin."""
        self.jobs.update({job.job_id: job for job in jobs})
        return self

    def acts(self, *kinds: type[Act]) -> list[Act]:
        """Return what was done, of some kinds or all."""
        return [done.act for done in self.done if not kinds or isinstance(done.act, kinds)]

    def names(self) -> list[str]:
        """Return the names of the acts, in order."""
        return [type(act).__name__ for act in self.acts()]

    def pause_by_user(self, job_id: int) -> None:
        """Do what `agentctl pause` does."""
        job = self.jobs[job_id]
        job.is_stopped = job.is_paused_by_user = True
        job.is_continued = False

    def continue_from_outside(self, job_id: int) -> None:
        """Do what `kill -CONT` does to a job that is kept stopped."""
        job = self.jobs[job_id]
        job.is_continued = job.is_continued or job.is_stopped
        job.is_stopped = False

    def resume_by_user(self, job_id: int) -> None:
        """Do what `agentctl resume` does, whoever stopped it."""
        job = self.jobs[job_id]
        if job.is_stopped and not job.is_paused_by_user:
            self.resumed.add(job_id)
        job.is_stopped = job.is_paused_by_user = job.is_continued = False

    def stop_by_user(self, job_id: int, grace_s: float) -> None:
        """Do what `agentctl stop` does."""
        self._begin_ladder(self.jobs[job_id], grace_s)

    def pass_time(self, ns: int) -> None:
        """Let everybody grow, and end what is to end."""
        self.at_ns += ns
        self.others_bytes += self.others_rate_bytes_per_s * ns // S_NS
        for job in self.jobs.values():
            if job.is_gone:
                continue
            if not job.is_stopped:
                grown = job.size_bytes + job.rate_bytes_per_s * ns // S_NS
                job.size_bytes = min(grown, max(job.most_bytes, job.size_bytes))
            if job.dies_ns is not None and self.at_ns >= job.dies_ns:
                job.gone_ns = self.at_ns

    def look(self) -> tuple[Act, ...]:
        """Measure, ask the policy, do what it wants."""
        host = HostSample(self.at_ns, self.total_bytes, self.available_bytes)
        samples = {} if has_just_crossed(self.memory, self.policy, host) else self._measure()
        look = Look(
            at_ns=self.at_ns,
            host=HostSample(self.at_ns, self.total_bytes, self.available_bytes),
            jobs=samples,
            rules={j.job_id: j.rules() for j in self.jobs.values() if not j.is_gone},
            paused=frozenset(j.job_id for j in self.jobs.values() if j.is_paused_by_user),
            stopping=frozenset(
                j.job_id for j in self.jobs.values() if j.ending_ns is not None and not j.is_gone
            ),
            resumed=frozenset(self.resumed),
        )
        decision = decide(self.policy, self.memory, look)
        self.memory, self.plan = decision.memory, decision.next
        self.resumed.clear()
        self.looks.append(look)
        self.delays_ns.append(decision.next.after_ns)
        self.done += [Done(self.at_ns, act, self.available_bytes) for act in decision.acts]
        if self.check is not None:
            self.check(self, look, decision.acts)
        for act in decision.acts:
            self._do(act)
        return decision.acts

    def run(self, for_s: float) -> Sim:
        """Go on for a time."""
        until_ns = self.at_ns + int(for_s * S_NS)
        while self.at_ns < until_ns:
            self.look()
            self._wait()
        return self

    def _wait(self) -> None:
        """Let time pass until the next look, which comes sooner if the host has lost much."""
        # Acting and scheduling take a little, always.
        due_ns = self.at_ns + max(self.plan.after_ns, MS_NS // 5)
        peek = self.plan.peek
        while peek is not None and self.at_ns + peek.every_ns < due_ns:
            self.pass_time(peek.every_ns)
            if self.available_bytes < peek.below_bytes:
                return
        self.pass_time(due_ns - self.at_ns)

    def _measure(self) -> Mapping[int, JobSample]:
        samples: dict[int, JobSample] = {}
        for job_id in sorted(self.plan.jobs | self.plan.charges):
            job = self.jobs.get(job_id)
            if job is None or job.is_gone:
                continue
            cost_ns = _CHARGE_NS if job_id in self.plan.charges else job.look_ns
            self.pass_time(cost_ns)
            is_wanted = job_id in self.plan.charges
            is_read = is_wanted and self._is_read(job)
            samples[job_id] = JobSample(
                job_id,
                self.at_ns,
                int(job.size_bytes * job.upper_factor),
                self._charge(job) if is_read else None,
                processes=1,
                cost_ns=cost_ns + (job.reading_ns if is_read else 0),
                is_measuring=is_wanted and not is_read,
            )
        return samples

    @staticmethod
    def _charge(job: SimJob) -> Charge:
        # Its pages are counted one after the other while it grows.
        held_bytes = (job.size_bytes + job.read_bytes) // 2 if job.reading_ns else job.size_bytes
        return Charge(held_bytes, held_bytes)

    def _is_read(self, job: SimJob) -> bool:
        if job.read_since_ns is None:
            job.read_since_ns, job.read_bytes = self.at_ns, job.size_bytes
        if self.at_ns - job.read_since_ns < job.reading_ns:
            return False
        job.read_since_ns = None
        return True

    def _do(self, act: Act) -> None:
        match act:
            case Freeze(job_id=job_id):
                self.jobs[job_id].is_stopped = True
                self.jobs[job_id].read_since_ns = None
            case Thaw(job_id=job_id) | Release(job_id=job_id):
                self.jobs[job_id].is_stopped = False
            case Hold(verdict=verdict):
                # Through the shim, which stops it again if its user has just let it go on.
                self.jobs[verdict.job_id].is_stopped = True
                # It is the guard's now, whoever paused it before.
                self.jobs[verdict.job_id].is_paused_by_user = False
                self.jobs[verdict.job_id].is_continued = False
            case Terminate(verdict=verdict, grace_s=grace_s):
                self._begin_ladder(self.jobs[verdict.job_id], grace_s)
            case Kill(verdict=verdict):
                job = self.jobs[verdict.job_id]
                job.ending_ns = self.at_ns
                job.dies_ns = self.at_ns + 5 * MS_NS
                job.is_stopped = True
            case _:
                pass

    def _begin_ladder(self, job: SimJob, grace_s: float) -> None:
        job.is_stopped = job.is_paused_by_user = job.is_continued = False
        job.ending_ns = self.at_ns
        wait_ns = int(grace_s * S_NS) if job.ignores_term else 20 * MS_NS
        dies_ns = self.at_ns + wait_ns
        job.dies_ns = dies_ns if job.dies_ns is None else min(job.dies_ns, dies_ns)


def gib(number: float) -> int:
    """Return so many GiB in bytes."""
    return int(number * GIB)


def mib(number: float) -> int:
    """Return so many MiB in bytes."""
    return int(number * MIB)
