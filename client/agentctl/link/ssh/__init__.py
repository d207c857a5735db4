"""Hosts over SSH: the user's own `ssh`, one private master a host, and two routes through it.

`master` keeps the master, `link` makes a `Link` of it; the rest are their parts. Nothing here
is imported for the agent of this machine.
"""

from agentctl.link.ssh.link import SshLink as SshLink
from agentctl.link.ssh.master import Master as Master
