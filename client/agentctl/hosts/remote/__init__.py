"""What runs on the server: puts an agent there, changes its version, takes it away.

Sent as it stands and executed by the server's own Python, of which it may use the standard
library alone; from the rest of agentctl it imports nothing. After the sources a line of JSON
follows on stdin (what is wanted), and later the wheels it asks for; it answers with lines of
JSON, each after a random mark, because a login shell may print anything before.
"""
