"""How much memory the host has left and how much of it a job holds.

For the warden's guard: standard library only, descriptors kept open, no pattern matching. A gauge
never raises: what it cannot read it counts with the last value known, and says so.
"""
