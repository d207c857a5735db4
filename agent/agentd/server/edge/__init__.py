"""gRPC: the only place of the agent that knows the wire. Decode, call, encode."""
