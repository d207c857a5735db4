"""Wheels out of what is installed here: our own package, and its dependencies where they fit.

Nothing is downloaded for a server like this machine: what runs here is sent as it is. Works
from an editable installation and from a wheel.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import io
import os
import re
import sys
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from agentctl.errors import RefusedError
from agentctl.hosts.target import Target

DISTRIBUTION = "agentctl"
_PACKAGES = ("agentapi", "agentctl", "agentd")
_KEPT_ENDINGS = (".py", ".pyi", ".typed")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Wheel(NamedTuple):
    """One wheel: a zip archive with a package's files."""

    name: str
    content: bytes

    @property
    def digest(self) -> str:
        """The SHA-256 of it, in hex."""
        return hashlib.sha256(self.content).hexdigest()


def own_wheel() -> Wheel:
    """Return the wheel of this very package. The same files make the same bytes.

    Raises:
        RefusedError: Its metadata are gone.

    """
    try:
        own = importlib.metadata.distribution(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        raise RefusedError(
            "agentctl is not installed as a package here; install it with pip or uv first"
        ) from None
    files = dict(item for package in _PACKAGES for item in _package_files(package))
    info = f"{DISTRIBUTION}-{own.version}.dist-info"
    files[f"{info}/METADATA"] = (own.read_text("METADATA") or "").encode()
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    return Wheel(f"{DISTRIBUTION}-{own.version}-py3-none-any.whl", packed(files))


def _package_files(package: str) -> Iterator[tuple[str, bytes]]:
    """Yield the name in a wheel and the content of each file of a package, not importing it."""
    spec = importlib.util.find_spec(package)
    for root in (spec.submodule_search_locations or ()) if spec is not None else ():
        for directory, below, names in os.walk(root):
            below[:] = [name for name in below if name != "__pycache__"]
            for name in names:
                if name.endswith(_KEPT_ENDINGS):
                    path = f"{directory}/{name}"
                    inner = os.path.relpath(path, os.path.dirname(root))
                    with open(path, "rb") as file:
                        yield inner, file.read()


def packed(files: Mapping[str, bytes]) -> bytes:
    """Return a zip archive of these files, always the same for the same files. Pure."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, content in sorted(files.items()):
            # A date of its own for each build would make each build another one.
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            wheel.writestr(entry, content)
    return archive.getvalue()


def requirements() -> tuple[str, ...]:
    """Return what this package needs beside itself, as pip takes it."""
    return tuple(
        sorted(text for text in importlib.metadata.requires(DISTRIBUTION) or () if ";" not in text)
    )


def installed_wheels(target: Target) -> tuple[Wheel, ...] | None:
    """Return the wheels of all dependencies as they are installed here.

    None: one of them would not run on the target, or cannot be put together again.
    """
    if sys.implementation.name != "cpython" or sys.version_info[:2] != target.version:
        return None
    wheels = []
    for name in _closure(requirements()):
        try:
            wheel = _installed_wheel(importlib.metadata.distribution(name), target)
        except (importlib.metadata.PackageNotFoundError, OSError):
            return None
        if wheel is None:
            return None
        wheels.append(wheel)
    return tuple(wheels)


def _closure(texts: Iterable[str]) -> list[str]:
    """Return the names of these requirements and of all that they require in turn."""
    seen: set[str] = set()
    waiting = list(texts)
    while waiting:
        text, _, marker = waiting.pop().partition(";")
        found = _NAME.match(text.strip())
        name = re.sub(r"[-_.]+", "-", found[0]).lower() if found else ""
        if not name or name in seen or "extra" in marker:
            continue
        try:
            more = importlib.metadata.requires(name) or ()
        except importlib.metadata.PackageNotFoundError:
            if marker:
                # Of another Python or another system; here it is not needed either.
                continue
            more = ()
        seen.add(name)
        waiting.extend(more)
    return sorted(seen)


def _installed_wheel(distribution: importlib.metadata.Distribution, target: Target) -> Wheel | None:
    tags = re.findall(r"^Tag: (\S+)", distribution.read_text("WHEEL") or "", re.MULTILINE)
    if not any(tag.count("-") >= 2 and target.takes(tag) for tag in tags):  # noqa: PLR2004  # PYTHON-ABI-PLATFORM
        return None
    files = {}
    for path in distribution.files or ():
        # Scripts lie outside; what Python compiled it compiles again.
        if path.parts[0] == ".." or "__pycache__" in path.parts or path.is_absolute():
            continue
        files[str(path)] = path.read_binary()
    name = re.sub(r"[-_.]+", "_", distribution.metadata["Name"])
    return Wheel(f"{name}-{distribution.version}-{tags[0]}.whl", packed(files)) if files else None
