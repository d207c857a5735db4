"""A laptop and a server for measurements, and plain ssh between the same two as the rival."""

from __future__ import annotations

import compileall
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from tests.helpers.sshrig import SshRig, Variant, ssh_rig

if TYPE_CHECKING:
    from agentctl import Client


@contextmanager
def warm_rig(variant: Variant | None = None) -> Iterator[tuple[SshRig, Client]]:
    """Yield a rig whose server is known and whose link stands, and an SDK client over it."""
    with cold_rig(variant) as rig:
        rig.know()
        with rig.sdk() as client:
            client.list()
            yield rig, client


@contextmanager
def cold_rig(variant: Variant | None = None) -> Iterator[SshRig]:
    """Yield a rig without crash points whose client knows nobody."""
    _compile()
    with ssh_rig(variant) as rig:
        # Looking for crash points is a cost that only tests have.
        del rig.client.env["AGENTD_CRASH_DIR"]
        yield rig


def _compile() -> None:
    """Have bytecode of every module, as an installed package has.

    Of one that was edited since there is none where PYTHONDONTWRITEBYTECODE is set: each
    command would compile it anew, which is a third of its time.
    """
    for name in ("agentctl", "agentd", "agentapi"):
        spec = find_spec(name)
        assert spec is not None
        for directory in spec.submodule_search_locations or ():
            compileall.compile_dir(directory, quiet=1)


@contextmanager
def plain_ssh(rig: SshRig, *options: str) -> Iterator[tuple[str, ...]]:
    """Yield the words that begin a command on the server, over a warm master of ssh's own."""
    control = f"{rig.client.root}/plain.ctl"
    master = [*rig.ssh_command, "-M", "-S", control, "-N", "-f", *options, rig.destination]
    with open(f"{rig.client.root}/plain.err", "wb") as complaints:
        # A file: the master keeps its stderr, and the end of a pipe would never come.
        subprocess.run(master, env=rig.client.env, check=True, timeout=20, stderr=complaints)
    try:
        yield (*rig.ssh_command, "-S", control, "-T", rig.destination)
    finally:
        end = [*rig.ssh_command, "-S", control, "-O", "exit", rig.destination]
        subprocess.run(end, env=rig.client.env, check=True, timeout=20, stderr=subprocess.DEVNULL)


def run_plain(rig: SshRig, words: tuple[str, ...], *command: str) -> None:
    """Run a command by `plain_ssh` to its end, its output thrown away."""
    subprocess.run(
        [*words, *command],
        env=rig.client.env,
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=120,
    )
