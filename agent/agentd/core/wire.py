"""Which clients an agent of this version understands. Pure."""

from __future__ import annotations

#: What this agent's wire can do. Grows with a change that an older client cannot live with.
API_LEVEL = 1


def window_complaint(client: str, agent: str) -> str:
    """Return why a client of version `client` must not talk to an agent of `agent`; empty: it may.

    One minor version apart is understood, within one major version: an agent is upgraded
    before or after its clients, never at the same moment. What cannot be read as a version is
    let in, for a client that says no version at all is let in too.
    """
    theirs, ours = _major_minor(client), _major_minor(agent)
    if theirs is None or ours is None:
        return ""
    if theirs[0] == ours[0] and abs(theirs[1] - ours[1]) <= 1:
        return ""
    apart = f"agentctl {client} does not understand the agent's version {agent}"
    if theirs < ours:
        return f"{apart}; install agentctl {ours[0]}.{ours[1]} here"
    return (
        f"{apart}; run: agentctl host upgrade HOST, or on this machine: "
        "agentctl agent stop && agentctl agent start (jobs go on)"
    )


def _major_minor(version: str) -> tuple[int, int] | None:
    parts = version.split(".")[:2]
    # Not "1²", which is a digit to isdigit() alone.
    if len(parts) < 2 or not all(p.isascii() and p.isdigit() and len(p) < 10 for p in parts):  # noqa: PLR2004  # "1.2", and no number that takes long to read
        return None
    return int(parts[0]), int(parts[1])
