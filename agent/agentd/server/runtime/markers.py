"""The names in live/: one for each job whose end is not yet in the index.

A marker is a link to one empty file: so many jobs, and not an inode to allocate and to free
for any of them. Where links are impossible it is a file of its own.
"""

from __future__ import annotations

import os

import structlog

from agentd.paths import Paths

_log = structlog.get_logger("agentd.markers")


def make_marker(paths: Paths, job_id: int) -> None:
    """Say that the job's end is still to come. Raises OSError."""
    marker = f"{paths.live}/{job_id}"
    try:
        os.link(paths.marker, marker)
    except FileExistsError:
        return
    except OSError:
        # The first job ever, a file system without links, or too many to one file (EMLINK).
        _touch(paths.marker)
        _touch(marker)


def _touch(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))


def remove_marker(paths: Paths, job_id: int) -> None:
    """Take the job out of live/: recovery need not look at it again."""
    try:
        os.unlink(f"{paths.live}/{job_id}")
    except FileNotFoundError:
        # A crash between this and the index left it removed already.
        pass
    except OSError as error:
        _log.error("job.marker_stays", job_id=job_id, error=str(error))
