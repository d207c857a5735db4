"""Jobs that are kept stopped and run all the same: somebody else has continued them. Pure."""

from __future__ import annotations

from dataclasses import replace

from agentd.core.guard.model import JobSample, Look
from agentd.core.guard.state import Frozen, Held, JobTrack, Stopped
from agentd.core.guard.units import MIB, S_NS

#: A stopped job does not grow at all; what a look reads of it may differ by so much.
_NOISE_BYTES = 4 * MIB
_NOISE_SHARE = 0.01
#: One that has not grown for so long counts as stopped again.
_AWAKE_NS = 3 * S_NS
#: A look may find a process late: with more of them it is measured anew, but not for ever.
_MOST_RECOUNTS = 3


def watch_stopped(look: Look, track: JobTrack, sample: JobSample | None) -> JobTrack:
    """Return what is known of a job with whether it grows although it is kept stopped."""
    stopped = track.stopped
    if isinstance(track.stage, Frozen):
        # Stopped by the guard for a moment: that says nothing about what it was before.
        is_kept = track.rules.job_id in look.paused
        return track if stopped is not None and is_kept else replace(track, stopped=None)
    if track.rules.job_id not in look.paused and not isinstance(track.stage, Held):
        return track if stopped is None else replace(track, stopped=None)
    if sample is not None and sample.at_ns > track.acted_ns:
        stopped = _compared(stopped, sample)
    return replace(track, stopped=_asleep_again(look, track, stopped))


def is_awake(track: JobTrack) -> bool:
    """Whether a job that is kept stopped runs."""
    return track.stopped is not None and track.stopped.grown_ns is not None


def is_asleep(track: JobTrack) -> bool:
    """Whether a job is kept stopped and has not grown."""
    return track.stopped is not None and track.stopped.grown_ns is None


def _compared(stopped: Stopped | None, sample: JobSample) -> Stopped:
    if stopped is None:
        return Stopped(sample.upper_bytes, sample.processes)
    noise_bytes = max(_NOISE_BYTES, int(stopped.upper_bytes * _NOISE_SHARE))
    if stopped.grown_ns is not None:
        noise_bytes = 0
    elif sample.processes > stopped.processes and stopped.recounts < _MOST_RECOUNTS:
        return Stopped(sample.upper_bytes, sample.processes, recounts=stopped.recounts + 1)
    now = replace(stopped, upper_bytes=sample.upper_bytes, processes=sample.processes)
    if sample.upper_bytes > stopped.upper_bytes + noise_bytes and not sample.is_partial:
        return replace(now, grown_ns=sample.at_ns)
    return replace(now, upper_bytes=min(stopped.upper_bytes, sample.upper_bytes))


def _asleep_again(look: Look, track: JobTrack, stopped: Stopped | None) -> Stopped | None:
    if stopped is None or stopped.grown_ns is None:
        return stopped
    is_measuring = track.sample is not None and track.sample.is_measuring
    if is_measuring or look.at_ns - stopped.grown_ns <= _AWAKE_NS:
        return stopped
    return replace(stopped, grown_ns=None)
