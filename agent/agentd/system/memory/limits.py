"""The memory cgroups that we are in, and what their limits leave (cgroups(7)).

In a container /proc/meminfo tells of the whole host, unless LXCFS stands before it; what may be
used is less. Of the limits above the container's own root nothing can be seen from inside.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass

from agentd.system.memory.fields import number, number_field
from agentd.system.memory.kept import Descriptors, KeptFile

_TABLE_BYTES = 1 << 20
_STAT_BYTES = 1 << 14
_ESCAPES = ((b"\\040", b" "), (b"\\011", b"\t"), (b"\\012", b"\n"), (b"\\134", b"\\"))


@dataclass(frozen=True, slots=True)
class _Kind:
    """What the two versions call the same things."""

    limit: str
    usage: str
    #: Of memory.stat: what the kernel takes back before it kills anybody.
    reclaimable: tuple[bytes, ...]
    #: Holds 0 where a parent's limit is none for its children.
    inherits: str | None


_V2 = _Kind(
    "memory.max",
    "memory.current",
    (b"inactive_file ", b"active_file ", b"slab_reclaimable "),
    None,
)
_V1 = _Kind(
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    (b"total_inactive_file ", b"total_active_file "),
    "memory.use_hierarchy",
)


class Limit:
    """One cgroup with a limit; its descriptors are kept."""

    __slots__ = ("_kind", "_stat", "_usage", "limit_bytes")

    def __init__(self, directory: str, kind: _Kind, limit_bytes: int, files: Descriptors) -> None:
        """`limit_bytes`: read from the directory before."""
        self.limit_bytes = limit_bytes
        self._kind = kind
        self._usage = KeptFile(f"{directory}/{kind.usage}", files)
        self._stat = KeptFile(f"{directory}/memory.stat", files)

    def available_bytes(self, unless_bytes: int) -> int:
        """Return what it leaves, file cache included, or some number that is not below another.

        memory.stat is the dear part (tens of microseconds): it is read only if the limit less
        the usage is below `unless_bytes`. Raises OSError or ValueError.
        """
        usage_bytes = int(self._usage.read())
        left_bytes = max(0, self.limit_bytes - usage_bytes)
        if left_bytes >= unless_bytes:
            return left_bytes
        data = self._stat.read(_STAT_BYTES)
        cache_bytes = sum(number_field(data, name) or 0 for name in self._kind.reclaimable)
        return min(self.limit_bytes, left_bytes + cache_bytes)

    def close(self) -> None:
        """Close both files."""
        self._usage.close()
        self._stat.close()


def find_limits(proc: str, root: str, total_bytes: int, files: Descriptors) -> list[Limit]:
    """Return our own memory cgroups, and those above them, that have less than the host.

    Args:
        proc: /proc, or a directory with its files.
        root: Stands before every path in self/mountinfo; empty on a real host.
        total_bytes: What the host has: a limit that is not below it is none.
        files: What keeps the descriptors.

    Empty if nothing can be read.

    """
    try:
        own = files.read(f"{proc}/self/cgroup", _TABLE_BYTES)
        mounts = files.read(f"{proc}/self/mountinfo", _TABLE_BYTES)
    except OSError:
        return []
    found: list[Limit] = []
    for kind, inside in _own_paths(own):
        mount = _mount(mounts, kind)
        if mount is None:
            continue
        for height, directory in enumerate(_climb(root + mount[1], mount[0], inside)):
            if height > 0 and _leaves_children_alone(directory, kind, files):
                break
            limit_bytes = _number_in(f"{directory}/{kind.limit}", files)
            if limit_bytes is not None and limit_bytes < total_bytes:
                found.append(Limit(directory, kind, limit_bytes, files))
    return found


def _own_paths(own: bytes) -> list[tuple[_Kind, str]]:
    """Return which memory cgroups we are in: lines `ID:CONTROLLERS:PATH` of /proc/self/cgroup."""
    found: list[tuple[_Kind, str]] = []
    for line in own.splitlines():
        parts = line.split(b":", 2)
        if len(parts) != 3:  # noqa: PLR2004  # as the line above says
            continue
        number_, controllers, path = parts
        text = path.decode(errors="surrogateescape")
        if b"memory" in controllers.split(b","):
            found.append((_V1, text))
        elif number_ == b"0" and not controllers:
            found.append((_V2, text))
    return found


def _mount(mounts: bytes, kind: _Kind) -> tuple[str, str] | None:
    """Return (root, mount point) of the hierarchy: lines of mountinfo (proc_pid_mountinfo(5))."""
    for line in mounts.splitlines():
        before, dash, after = line.partition(b" - ")
        fields, filesystem = before.split(b" "), after.split(b" ")
        if not dash or len(fields) < 6 or len(filesystem) < 3:  # noqa: PLR2004  # fixed fields
            continue
        if kind is _V2:
            fits = filesystem[0] == b"cgroup2"
        else:
            fits = filesystem[0] == b"cgroup" and b"memory" in filesystem[2].split(b",")
        if fits:
            return _unescaped(fields[3]), _unescaped(fields[4])
    return None


def _unescaped(text: bytes) -> str:
    for escape, meaning in _ESCAPES:
        text = text.replace(escape, meaning)
    return text.decode(errors="surrogateescape")


def _climb(point: str, mount_root: str, inside: str) -> list[str]:
    """Return the directory of our cgroup and those above it, up to the mount point."""
    below = _below(mount_root, inside)
    steps = [step for step in below.split("/") if step]
    return ["/".join([point, *steps[:count]]) for count in range(len(steps), -1, -1)]


def _below(mount_root: str, inside: str) -> str:
    if mount_root == "/":
        path = inside
    elif inside == mount_root or inside.startswith(mount_root + "/"):
        path = inside[len(mount_root) :]
    else:
        # Another cgroup namespace's words: what is mounted is all that we know of.
        return ""
    # A path of `/..` leads out of our cgroup namespace (cgroup_namespaces(7)).
    return "" if ".." in path.split("/") else posixpath.normpath("/" + path.lstrip("/"))


def _leaves_children_alone(directory: str, kind: _Kind, files: Descriptors) -> bool:
    # Version 1 without hierarchy: a parent neither counts nor limits its children.
    return kind.inherits is not None and _number_in(f"{directory}/{kind.inherits}", files) == 0


def _number_in(path: str, files: Descriptors) -> int | None:
    try:
        return number(files.read(path))
    except OSError:
        return None
