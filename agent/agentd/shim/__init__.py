"""The parent of one job; stdlib only, outlives warden and server."""
