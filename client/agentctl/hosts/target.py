"""What a server is, as far as an installation depends on it, and which wheels fit there. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: The oldest Python that runs an agent.
OLDEST_PYTHON = (3, 11)
# Such a path stands unquoted in a command line that every login shell understands alike.
_PLAIN_PATH = re.compile(r"/[A-Za-z0-9_./+@-]*", re.ASCII)
#: The lowest glibc minor version that a wheel of today can be built for, by machine (PEP 600).
_OLDEST_GLIBC_MINOR = {"x86_64": 5, "i686": 5}
_OLDEST_OTHER_GLIBC_MINOR = 17
_LEGACY = {(2, 17): "manylinux2014", (2, 12): "manylinux2010", (2, 5): "manylinux1"}
_MUSL_MINORS = (2, 1)
# A server's words become paths, arguments and the ends of loops here.
_MACHINE = re.compile(r"[a-z0-9_]{1,32}", re.ASCII)
_MINOR = re.compile(r"2\.([0-9]{1,3})(?:[^0-9].*)?", re.ASCII)
_LARGEST_MINOR = 999


@dataclass(frozen=True, slots=True)
class Glibc:
    """The GNU C library, 2.`minor`."""

    minor: int


@dataclass(frozen=True, slots=True)
class Musl:
    """The musl C library, as in Alpine."""


@dataclass(frozen=True, slots=True)
class Target:
    """One Python on a server."""

    #: Absolute, and plain enough to stand in any command line.
    python: str
    #: Major and minor.
    version: tuple[int, int]
    #: With the "t" of a free-threaded build: "cp311", "cp313t".
    abi: str
    #: As in the names of wheels: "x86_64", "aarch64".
    machine: str
    libc: Glibc | Musl

    @property
    def interpreter(self) -> str:
        """The first part of a wheel's tag: "cp311"."""
        return f"cp{self.version[0]}{self.version[1]}"

    @property
    def tag(self) -> str:
        """Names what an installation depends on, as part of its directory's name."""
        libc = "musl" if isinstance(self.libc, Musl) else "linux"
        return f"{self.abi}-{libc}_{self.machine}"

    @property
    def platforms(self) -> tuple[str, ...]:
        """The platform tags of wheels that run there, the newest first."""
        if isinstance(self.libc, Musl):
            return tuple(f"musllinux_1_{minor}_{self.machine}" for minor in _MUSL_MINORS)
        oldest = _OLDEST_GLIBC_MINOR.get(self.machine, _OLDEST_OTHER_GLIBC_MINOR)
        names = []
        for minor in range(self.libc.minor, oldest - 1, -1):
            names.append(f"manylinux_2_{minor}_{self.machine}")
            if (2, minor) in _LEGACY:
                names.append(f"{_LEGACY[2, minor]}_{self.machine}")
        return tuple(names)

    @property
    def abis(self) -> tuple[str, ...]:
        """The ABI tags of wheels that run there."""
        # A free-threaded Python has no stable ABI (PEP 703).
        return (self.abi, "none") if self.abi.endswith("t") else (self.abi, "abi3", "none")

    def takes(self, tag: str) -> bool:
        """Say whether a wheel with this tag ("cp39-abi3-manylinux2014_x86_64") runs there."""
        pythons, abis, platforms = tag.split("-", 2)
        allowed = {"any", *self.platforms}
        return (
            any(self._takes_python(python, abis) for python in pythons.split("."))
            and bool(set(abis.split(".")) & set(self.abis))
            and bool(set(platforms.split(".")) & allowed)
        )

    def _takes_python(self, python: str, abi: str) -> bool:
        if python in ("py3", self.interpreter):
            return True
        old = re.fullmatch(r"(?:cp|py)3(\d+)", python)
        # What is built for an older one runs with the stable ABI, or without any.
        return old is not None and abi in ("abi3", "none") and int(old[1]) <= self.version[1]


def read_target(told: Mapping[str, Any]) -> Target:
    """Return the target that a server's Python described (see `look`).

    Raises:
        ValueError: It is none that can be served; the text says why.

    """
    try:
        python, version = str(told["python"]), (int(told["major"]), int(told["minor"]))
        soabi, platform = str(told["soabi"]), str(told["platform"])
        libc, libc_version = str(told["libc"]), str(told["libc_version"])
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ValueError("its Python describes itself in an unknown way") from None
    if told.get("implementation") != "cpython":
        raise ValueError(f"{python} is {told.get('implementation')}, not CPython")
    if not is_plain_path(python):
        raise ValueError(f"the path {python!r} has characters that a login shell acts on")
    if not platform.startswith("linux-"):
        raise ValueError(f"it is {platform}; an agent runs on Linux")
    if version[0] != OLDEST_PYTHON[0] or not 0 <= version[1] <= _LARGEST_MINOR:
        raise ValueError(f"{python} is a Python of an unknown version")
    machine = platform.removeprefix("linux-").replace("-", "_")
    if _MACHINE.fullmatch(machine) is None:
        raise ValueError(f"its machine is unknown ({machine!a})")
    abi = f"cp{version[0]}{version[1]}{'t' if told.get('is_free_threaded') else ''}"
    minor = _MINOR.fullmatch(libc_version)
    if libc == "glibc" and minor is not None:
        return Target(python, version, abi, machine, Glibc(int(minor[1])))
    if "musl" in soabi or "musl" in str(told.get("host_type")):
        return Target(python, version, abi, machine, Musl())
    raise ValueError(f"its C library is unknown ({libc} {libc_version})")


def is_plain_path(path: str) -> bool:
    """Say whether a path means the same in every shell, unquoted. Pure."""
    return _PLAIN_PATH.fullmatch(path) is not None
