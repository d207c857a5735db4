"""Everything large: gRPC, store, logs. May crash at any time."""
