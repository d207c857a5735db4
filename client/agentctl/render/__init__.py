"""Model values as text: pure functions, no gRPC, no terminal library."""
