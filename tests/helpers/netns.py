"""A cable that can be pulled: a network namespace at the far end of a veth pair (root only)."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cable:
    """One pair of interfaces; the far one stands in a namespace of its own."""

    namespace: str
    near_interface: str
    far_address: str

    def pull(self) -> None:
        """Take the far end down: what is sent vanishes, and nobody is told, as with lost wifi."""
        self._set("down")

    def plug(self) -> None:
        """Bring it up again; connections whose ends still live go on."""
        self._set("up")

    def _set(self, state: str) -> None:
        _ip("-n", self.namespace, "link", "set", "eth0", state)


@contextmanager
def cable() -> Iterator[Cable]:
    """Yield a cable that is plugged, and remove it: no namespace, no interface is left."""
    number = random.Random(os.urandom(8)).randrange(2**14)
    network = f"10.251.{number >> 6}.{(number & 63) << 2}".rsplit(".", 1)
    near, far = (f"{network[0]}.{int(network[1]) + host}" for host in (1, 2))
    made = Cable(f"at-{os.getpid()}-{number}", f"at{number}", far)
    _ip("netns", "add", made.namespace)
    try:
        name = made.near_interface
        _ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", made.namespace)
        _ip("addr", "add", f"{near}/30", "dev", name)
        _ip("-n", made.namespace, "addr", "add", f"{far}/30", "dev", "eth0")
        _ip("-n", made.namespace, "link", "set", "lo", "up")
        _ip("link", "set", name, "up")
        made.plug()
        yield made
    finally:
        # With the namespace's name alone gone, what still runs in it would keep the pair.
        subprocess.run(["ip", "link", "del", made.near_interface], check=False)
        _ip("netns", "del", made.namespace)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, timeout=10)
