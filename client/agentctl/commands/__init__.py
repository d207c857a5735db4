"""One file a verb; each has its `command`. None imports gRPC before it is called."""
