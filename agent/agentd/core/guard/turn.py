"""One turn of the policy: what was seen, what is remembered, what is to be done. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from agentd.core.guard.model import (
    Act,
    Freeze,
    GuardPolicy,
    JobSample,
    Level,
    Look,
    Thaw,
    Trigger,
    Verdict,
)
from agentd.core.guard.state import Charged, Ending, Frozen, Held, JobTrack, Memory, Running
from agentd.core.guard.units import S_NS
from agentd.core.guard.wake import is_awake
from agentd.core.guard.watermarks import Watermarks

#: A sample older than this says nothing about now.
FRESH_NS = S_NS // 2
#: A job whose charge did not come that often, or for so long, is judged without it.
_PATIENCE = 3
_PATIENCE_NS = S_NS
#: Page tables of hundreds of GiB take their time; the host is well meanwhile.
_MEASURING_PATIENCE_NS = 60 * S_NS


@dataclass(frozen=True, slots=True)
class Turn:
    """Handed from rule to rule; each returns the next one."""

    policy: GuardPolicy
    look: Look
    watermarks: Watermarks
    memory: Memory
    #: The lowest mark that is crossed at this very look.
    crossed: Level
    #: The looks before this one are no ground for new suspicion: too long ago.
    is_rebased: bool = False
    acts: tuple[Act, ...] = ()
    #: Jobs whose charge is wanted at once.
    charges: frozenset[int] = frozenset()
    #: Jobs that stay frozen a look longer: others are still to be measured.
    kept: frozenset[int] = frozenset()

    @property
    def at_ns(self) -> int:
        """Return the time of the look."""
        return self.look.at_ns

    @property
    def available_bytes(self) -> int:
        """Return the host's available memory."""
        return self.look.host.available_bytes

    def with_job(self, track: JobTrack) -> Turn:
        """Return the turn with another state of one job."""
        jobs = {**self.memory.jobs, track.rules.job_id: track}
        return replace(self, memory=replace(self.memory, jobs=jobs))

    def doing(self, track: JobTrack, act: Act) -> Turn:
        """Return the turn with an act on a job: what was measured until now is stale then."""
        at_ns = max(self.at_ns, track.sample.at_ns if track.sample else 0)
        turn = self.with_job(replace(track, acted_ns=at_ns))
        return replace(turn, acts=(*turn.acts, act))

    def saying(self, act: Act) -> Turn:
        """Return the turn with an act that does nothing to anybody."""
        return replace(self, acts=(*self.acts, act))

    def asking(self, job_ids: Iterable[int]) -> Turn:
        """Return the turn with charges wanted at once."""
        return replace(self, charges=self.charges | frozenset(job_ids))

    def freeze(self, track: JobTrack, trigger: Trigger) -> Turn:
        """Return the turn with the job stopped, to be measured at once."""
        stage = Frozen(trigger, self.at_ns)
        frozen = replace(track, stage=stage, unanswered=0, reading_available_bytes=None)
        return self.doing(frozen, Freeze(track.rules.job_id)).asking((track.rules.job_id,))

    def thaw(self, track: JobTrack) -> Turn:
        """Return the turn with a frozen job going on."""
        return self.doing(replace(track, stage=Running()), Thaw(track.rules.job_id))

    # What is known of a job at this turn.

    def fresh(self, track: JobTrack) -> JobSample | None:
        """Return the job's last sample if an act may rest on it."""
        sample = track.sample
        if sample is None or not self._is_fresh(track, sample):
            return None
        return sample

    def charged(self, track: JobTrack) -> Charged | None:
        """Return the job's last charge if a verdict may rest on it."""
        charged = track.charged
        if charged is None or not self._is_fresh(track, charged.sample):
            return None
        return charged

    def is_unmeasurable(self, track: JobTrack) -> bool:
        """Whether its charge does not come, so that it is judged without."""
        return track.unanswered >= _PATIENCE or self._is_frozen_for_long(track)

    def _is_frozen_for_long(self, track: JobTrack) -> bool:
        if not isinstance(track.stage, Frozen):
            return False
        is_measuring = track.sample is not None and track.sample.is_measuring
        may_take_long = is_measuring and track.stage.trigger is Trigger.OWN_LIMIT
        patience_ns = _MEASURING_PATIENCE_NS if may_take_long else _PATIENCE_NS
        return self.at_ns - track.stage.since_ns > patience_ns

    def is_paused_by_user(self, track: JobTrack) -> bool:
        """Whether it is stopped because the user paused it; one that grows runs again."""
        return track.rules.job_id in self.look.paused and not is_awake(track)

    def is_stopping(self, track: JobTrack) -> bool:
        """Whether its stop ladder runs, whoever began it."""
        return track.rules.job_id in self.look.stopping or isinstance(track.stage, Ending)

    def verdict(self, track: JobTrack, trigger: Trigger, why: str = "") -> Verdict:
        """Return why a job is acted on, with the numbers of now. `why`: this one and no other."""
        level = Level.FINE if trigger is Trigger.OWN_LIMIT else max(self.crossed, self.memory.level)
        return Verdict(
            job_id=track.rules.job_id,
            trigger=trigger,
            level=level,
            held_bytes=holding(track),
            freeable_bytes=freeable(track),
            limit_bytes=track.rules.limit_bytes,
            rate_bytes_per_s=max(0, track.upper.rate_bytes_per_s(), track.held.rate_bytes_per_s()),
            host_total_bytes=self.look.host.total_bytes,
            host_available_bytes=self.available_bytes,
            host_rate_bytes_per_s=self.memory.loss.rate_bytes_per_s(),
            mark_bytes=self.watermarks.of(level),
            why=why,
        )

    def _is_fresh(self, track: JobTrack, sample: JobSample) -> bool:
        return sample.at_ns > track.acted_ns and self.at_ns - sample.at_ns <= FRESH_NS


def upper_now(track: JobTrack) -> int:
    """Return the job's resident sets when last looked at."""
    return 0 if track.sample is None else track.sample.upper_bytes


def holding(track: JobTrack) -> int:
    """Return the best estimate of what a job holds: never above its resident sets.

    What it held when last measured, and all that its resident sets have grown since.
    """
    return _grown(track, None if track.charged is None else track.charged.held_bytes)


def freeable(track: JobTrack) -> int:
    """Return the best estimate of what would come back if the job ended."""
    return _grown(track, None if track.charged is None else track.charged.freeable_bytes)


def _grown(track: JobTrack, measured_bytes: int | None) -> int:
    upper_bytes = upper_now(track)
    if track.charged is None or measured_bytes is None:
        return upper_bytes
    if isinstance(track.stage, Held):
        return measured_bytes
    grown_bytes = max(0, upper_bytes - track.charged.sample.upper_bytes)
    return min(upper_bytes, measured_bytes + grown_bytes)
