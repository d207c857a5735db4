"""smaps_rollup of many processes, passed on through a pipe.

Written by a process that is forked for it, so without dataclasses and struct; read by the
warden. An answer is a line with its length, then the text; a negative length is an errno.
"""

from __future__ import annotations

import os

from agentd.system.files import write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_READ_BYTES = 4096


def read_one(path: str) -> bytes | OSError:
    """Return what stands in a file of /proc, or what the kernel says instead."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        return error
    try:
        return os.read(descriptor, _READ_BYTES)
    except OSError as error:
        return error
    finally:
        os.close(descriptor)


def write(paths: Iterable[str], pipe: int) -> None:
    """Read one after the other and pass on each answer at once. Raises OSError: nobody listens."""
    for path in paths:
        answer = read_one(path)
        if isinstance(answer, OSError):
            write_all(pipe, b"%d\n" % -(answer.errno or 1))
        else:
            write_all(pipe, b"%d\n%s" % (len(answer), answer))


def parse(data: bytes) -> list[bytes | OSError]:
    """Return the answers that are there in full. Pure."""
    answers: list[bytes | OSError] = []
    while data:
        head, newline, data = data.partition(b"\n")
        if not newline:
            break
        size = int(head)
        if size < 0:
            # The constructor picks the subclass: ProcessLookupError for ESRCH.
            answers.append(OSError(-size, os.strerror(-size)))
            continue
        if len(data) < size:
            break
        answers.append(data[:size])
        data = data[size:]
    return answers
