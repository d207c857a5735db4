"""Ports of a host at a port of this machine, through the agent's own connection."""
