"""The hosts over SSH that this client knows, and how a server is made one of them."""
