"""Launches shims, minds them, restarts the server; stdlib only, one thread, never fails."""
