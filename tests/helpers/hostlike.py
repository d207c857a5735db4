"""Hosts of the host book, made up."""

from __future__ import annotations

from datetime import UTC, datetime

from agentctl.link.book import Host


def host_at(destination: str, agentd: str, name: str = "gpu1") -> Host:
    """Return a host as `host add` would have entered it just now."""
    return Host(name, destination, agentd, "0", datetime.now(UTC))
