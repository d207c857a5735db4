"""The agent: warden, shims and server."""

__version__ = "0.1.0"
