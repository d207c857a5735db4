"""Start the test machine with a plan, read what it reports, prove that it is gone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.helpers.processes import command_line
from tests.helpers.vm.images import machine_directory, rig_disk, site_disk
from tests.helpers.wait import wait_until

RAM_MIB = 1024


@dataclass(frozen=True, slots=True)
class HogPlan:
    """One hog to let loose; see tests/helpers/hog.c for modes and options."""

    name: str
    mode: str
    #: Far more than there is: only a guard or the kernel ends it.
    cap_bytes: int = 3 << 30
    options: dict[str, int] = field(default_factory=dict)
    #: The job's own limit as submit takes it; None: only the host's marks stand in its way.
    mem: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What the machine is to do between boot and power-off."""

    #: "guard", the name of a service that is started first, or "nothing".
    protector: str
    #: Whether the user has a systemd of their own, and with it a delegated cgroup.
    has_manager: bool
    hogs: tuple[HogPlan, ...] = ()
    #: Run as the user before anything else.
    commands: tuple[tuple[str, ...], ...] = ()
    #: The user's config.toml.
    config: str = ""
    #: For one hog.
    deadline_s: float = 60.0

    def as_json(self) -> dict[str, object]:
        """Return what guest.py reads."""
        return {**asdict(self), "user": "lab" if self.has_manager else "plain"}


Report = dict[str, Any]


class Vm:
    """A started machine."""

    def __init__(self, directory: Path, process: subprocess.Popen[bytes]) -> None:
        """Mind the process; its two serial lines end in files in `directory`."""
        self.directory = directory
        self._process = process

    def console(self) -> str:
        """Return what kernel and systemd have printed."""
        path = self.directory / "console"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def reports(self, kind: str = "") -> list[Report]:
        """Return the lines that are complete so far, all or those of one kind."""
        path = self.directory / "reports"
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        every = [json.loads(line) for line in text.split("\n")[:-1] if line.strip()]
        return [report for report in every if not kind or report["kind"] == kind]

    def wait_over(self, deadline_s: float) -> list[Report]:
        """Wait until the plan is done and the machine is off; return all reports.

        Raises:
            AssertionError: It hangs, or its plan could not be done; with the end of the console.

        """
        try:
            wait_until(self._is_off, deadline_s=deadline_s, what="the test machine is off")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.reports()}\n{self.console()[-3000:]}") from None
        assert self.reports("over"), self.console()[-3000:]
        assert not self.reports("failed"), (self.reports(), self.console()[-3000:])
        return self.reports()

    def is_off_within(self, deadline_s: float) -> bool:
        """Say whether the machine ends by itself, for those of which it is not expected."""
        try:
            wait_until(self._is_off, deadline_s=deadline_s)
        except AssertionError:
            return False
        return True

    def _is_off(self) -> bool:
        return self._process.poll() is not None


@contextmanager
def machine(plan: Plan) -> Iterator[Vm]:
    """Yield a machine that begins with the plan; afterwards nothing of it is left."""
    directory = Path(tempfile.mkdtemp(prefix="vm-", dir="/var/tmp"))
    try:
        rig = rig_disk(directory, plan.as_json())
        with (
            (directory / "qemu.log").open("wb") as log,
            subprocess.Popen(
                _argv(directory, rig),
                env={**os.environ, "TMPDIR": str(directory)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            ) as process,
        ):
            try:
                yield Vm(directory, process)
            finally:
                process.kill()
        left = _processes_of(directory)
        assert left == [], f"a test machine outlived its test: {left}"
    finally:
        shutil.rmtree(directory)


def _argv(directory: Path, rig: Path) -> Sequence[str]:
    machine = machine_directory()
    # Written to by nobody: what the guest writes goes to a file without a name.
    base = f"file={machine}/disk.img,format=raw,if=virtio,snapshot=on"
    further = (f"file={disk},format=raw,if=virtio,readonly=on" for disk in (site_disk(), rig))
    serials = (f"file:{directory}/{name}" for name in ("console", "reports"))
    append = "console=ttyS0 root=/dev/vda rw panic=-1 psi=1 quiet mitigations=off"
    return (
        # KVM is not everywhere, and where it is nested it is known to hang.
        *("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "Nehalem"),
        *("-smp", "2", "-m", str(RAM_MIB), "-display", "none", "-monitor", "none", "-no-reboot"),
        *("-nic", "none", "-name", str(directory)),
        *("-kernel", f"{machine}/vmlinuz", "-initrd", f"{machine}/initrd", "-append", append),
        *(word for drive in (base, *further) for word in ("-drive", drive)),
        *(word for serial in serials for word in ("-serial", serial)),
    )


def _processes_of(directory: Path) -> list[str]:
    lines = (command_line(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return [line for line in lines if str(directory) in line]
