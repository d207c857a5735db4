"""Which agents a client of this version understands: the agents' own rule. Pure.

An agent says its version to every client, however far apart the two are, and one from before
there was a rule refuses nobody.
"""

from __future__ import annotations

import shlex


def window_complaint(client: str, agent: str, host: str) -> str:
    """Return why a client of version `client` cannot work with an agent of `agent`; empty: it can.

    One minor version apart is understood, within one major version. What cannot be read as a
    version is understood too.
    """
    ours, theirs = _major_minor(client), _major_minor(agent)
    if ours is None or theirs is None:
        return ""
    if ours[0] == theirs[0] and abs(ours[1] - theirs[1]) <= 1:
        return ""
    apart = f"agentctl {client} does not understand the agent's version {agent}"
    if ours < theirs:
        return f"{apart}; install agentctl {theirs[0]}.{theirs[1]} here"
    return f"{apart}; run: agentctl host upgrade {shlex.quote(host)} (jobs go on)"


def _major_minor(version: str) -> tuple[int, int] | None:
    parts = version.split(".")[:2]
    # Not "1²", which is a digit to isdigit() alone.
    if len(parts) < 2 or not all(p.isascii() and p.isdigit() and len(p) < 10 for p in parts):  # noqa: PLR2004  # "1.2", and no number that takes long to read
        return None
    return int(parts[0]), int(parts[1])
