"""JOB arguments that name their host: `gpu1:7`, `gpu1:train`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from agentctl.errors import InvalidSpecError, JobNotFoundError


class Reference(NamedTuple):
    """A job of one host."""

    host: str
    #: Its id or name there.
    job: str


def read_reference(text: str, is_host: Callable[[str], bool]) -> Reference | str:
    """Return the job of a host if `text` names one of those known, else `text`. Pure."""
    host, colon, job = text.partition(":")
    return Reference(host, job) if colon and job and is_host(host) else text


def is_known(host: str) -> bool:
    """Say whether a host of this name can be asked."""
    from agentctl.errors import HostUnreachableError
    from agentctl.link import check_host

    if not host:
        return False
    try:
        check_host(host)
    except HostUnreachableError:
        return False
    return True


def read_references(texts: Sequence[str], hosts: Sequence[str]) -> list[Reference]:
    """Return each with its host: its own, else the only one of `hosts`.

    Raises:
        InvalidSpecError: A job of several hosts that does not say which.

    """
    return [_placed(read_reference(text, is_known), hosts) for text in texts]


def _placed(reference: Reference | str, hosts: Sequence[str]) -> Reference:
    if isinstance(reference, Reference):
        return reference
    if len(hosts) == 1:
        return Reference(hosts[0], reference)
    raise InvalidSpecError(
        f"{reference!r} may be a job of any of {len(hosts)} hosts; say of which: "
        f"{hosts[0]}:{reference}"
    )


def explained(error: JobNotFoundError, text: str) -> JobNotFoundError:
    """Return the error with a word about the host that `text` names, if there is none such."""
    host, colon, job = text.partition(":")
    if not (host and colon and job) or is_known(host):
        return error
    from agentctl.words import told

    hint = f"{told(host)} is no host, see: agentctl host ls"
    return JobNotFoundError(f"{error}; {hint}", reason=error.reason)


def any_names_a_host(texts: Sequence[str]) -> bool:
    """Say whether one of them is a job of a named host. Cheap where none has a colon."""
    return any(isinstance(read_reference(text, is_known), Reference) for text in texts)
