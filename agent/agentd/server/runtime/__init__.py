"""What the server knows and does, without a word of gRPC."""
