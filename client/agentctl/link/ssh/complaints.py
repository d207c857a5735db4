"""What ssh says when it fails, as an error that says what to do. Pure."""

from __future__ import annotations

from typing import NamedTuple

from agentctl.errors import AgentctlError, HostUnreachableError, TryAgainError

_LONGEST_LINE = 300


class _Rule(NamedTuple):
    """One thing that does not heal by itself."""

    words: str
    advice: str
    #: Said too while the network is away, of a host that is known to exist.
    is_of_network: bool = False


# The words are those of OpenSSH 7.4 to 10; the first that is found decides.
_RULES = (
    _Rule(
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        "its host key has changed; find out why before you accept the new one: {look}",
    ),
    _Rule(
        "Host key verification failed",
        "its host key is not known here; look at it and accept it: {look}",
    ),
    _Rule("Permission denied", "it did not let you in ({line}); log in by hand once: {look}"),
    _Rule("Too many authentication failures", "it did not let you in ({line}); see: {look}"),
    _Rule("Bad configuration option", "ssh's configuration has a fault ({line}); mend it"),
    _Rule("terminating, ", "ssh's configuration has a fault ({line}); mend it"),
    _Rule("Can't open user config file", "ssh's configuration is missing ({line})"),
    _Rule("Bad owner or permissions", "ssh's configuration is not safe ({line})"),
    _Rule("unknown option", "this ssh is too old or no OpenSSH ({line})"),
    _Rule("Name or service not known", "its name is not known ({line}); see: {look}", True),
    _Rule("No address associated", "its name has no address ({line}); see: {look}", True),
)
#: A jump host that failed is silent: ssh gives it /dev/null for its complaints.
_JUMP = "UNKNOWN port 65535"


def why(said: str, name: str, look: str, *, was_there: bool = False) -> AgentctlError:
    """Return the error for a login that failed.

    Args:
        said: Everything ssh wrote to stderr.
        name: What people call the host.
        look: A command with which a person sees more, such as `ssh gpu1`.
        was_there: The host has answered before: a name that is not known now means that the
            network is away.

    Returns:
        HostUnreachableError for what a person has to mend; TryAgainError for what may pass.

    """
    for rule in _RULES:
        if rule.words in said and not (was_there and rule.is_of_network):
            line = last_line("\n".join(s for s in said.splitlines() if rule.words in s))
            advice = rule.advice.format(line=line, look=look)
            return HostUnreachableError(f"cannot reach {name}: {advice}")
    line = last_line(said) or "ssh said nothing"
    if _JUMP in said:
        line = f"the jump host or ProxyCommand on the way failed ({line})"
    return TryAgainError(f"cannot reach {name}: {line}; try again, or see: {look}")


def last_line(said: str) -> str:
    """Return the last line that says something, without what a terminal would act on."""
    lines = [line.strip() for line in said.splitlines() if line.strip(" \t@")]
    if not lines:
        return ""
    return "".join(c if c.isprintable() else "?" for c in lines[-1])[:_LONGEST_LINE].rstrip(".")
