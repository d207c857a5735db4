"""The typed way to an agent: the only place with gRPC and wire types."""
