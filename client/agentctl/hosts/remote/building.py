"""One installation: a virtual environment without pip, into which wheels are unpacked."""

from __future__ import annotations

import io
import json
import os
import secrets
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from agentctl.hosts.remote.agent import run
from agentctl.hosts.remote.peer import Peer, SetupError
from agentctl.hosts.remote.places import remove_tree, write

_FETCH_WITHIN_S = 180.0


def _size_bytes(place: str) -> int:
    """Return the bytes of an installation without what Python compiles into it later."""
    total = 0
    for directory, below, files in os.walk(f"{place}/lib"):
        below[:] = [name for name in below if name != "__pycache__"]
        total += sum(os.lstat(f"{directory}/{name}").st_size for name in files)
    return total


def is_complete(place: str) -> bool:
    """Say whether it is all there (a power cut may have emptied files) and its Python runs."""
    try:
        with open(f"{place}/install.json", encoding="utf-8") as file:
            size_bytes = json.load(file)["size_bytes"]
        if size_bytes != _size_bytes(place):
            return False
        run([f"{place}/bin/python", "-I", "-c", "import agentd"], 30)
    except (OSError, ValueError, KeyError, SetupError):
        return False
    return True


def build(root: str, place: str, wanted: dict[str, Any], peer: Peer) -> None:
    """Build an installation aside and give it its name. Raises SetupError, OSError."""
    scratch = f"{root}/.new-{secrets.token_hex(8)}"
    try:
        _make_environment(scratch)
        site = _site_packages(scratch)
        for content in peer.wheels("own"):
            _unpack(content, site)
        _bring_dependencies(scratch, site, wanted, peer)
        record = {key: wanted[key] for key in ("version", "tag", "digest")}
        record |= {"python": sys.executable, "size_bytes": _size_bytes(scratch)}
        write(f"{scratch}/install.json", json.dumps(record) + "\n")
        if os.path.lexists(place):
            os.rename(place, f"{root}/.old-{secrets.token_hex(8)}")
        os.rename(scratch, place)
    finally:
        if os.path.lexists(scratch):
            remove_tree(scratch)


def _make_environment(place: str) -> None:
    try:
        import venv
    except ImportError:
        raise SetupError("python", f"{sys.executable} has no module venv") from None
    venv.EnvBuilder(symlinks=True, with_pip=False).create(place)
    for name in os.listdir(f"{place}/bin"):
        if name.lower().startswith("activate"):
            # They name the directory as it was called while it was built.
            os.unlink(f"{place}/bin/{name}")


def _site_packages(place: str) -> str:
    return f"{place}/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"


def _unpack(content: bytes, site: str) -> None:
    """Unpack a wheel: all of it but scripts and headers, which an agent does not need."""
    with zipfile.ZipFile(io.BytesIO(content)) as wheel:
        for entry in wheel.infolist():
            name, inner = entry.filename, entry.filename.split("/", 2)
            if inner[0].endswith(".data"):
                if len(inner) < 3 or inner[1] not in ("purelib", "platlib"):  # noqa: PLR2004  # NAME.data/KIND/PATH
                    continue
                name = inner[2]
            path = os.path.normpath(f"{site}/{name}")
            if not path.startswith(f"{site}/"):
                raise SetupError("internal", f"a wheel has the path {entry.filename!r}")
            if entry.is_dir():
                continue
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with wheel.open(entry) as source, open(path, "wb") as target:
                shutil.copyfileobj(source, target)


def _bring_dependencies(scratch: str, site: str, wanted: dict[str, Any], peer: Peer) -> None:
    why = "--offline" if not wanted["online"] else "the server has neither pip nor uv"
    for tool, fetch in _fetchers(scratch, wanted) if wanted["online"] else ():
        peer.tell("say", text=f"fetching its dependencies with the server's {tool}")
        # Each has its own: what one left half is none of the other's.
        os.mkdir(f"{scratch}/wheels")
        try:
            fetch()
            for name in sorted(os.listdir(f"{scratch}/wheels")):
                with open(f"{scratch}/wheels/{name}", "rb") as file:
                    _unpack(file.read(), site)
            return
        except SetupError as failure:
            if failure.told["kind"] != "command":
                raise
            why = f"{tool} could not fetch them: {failure}"
        finally:
            shutil.rmtree(f"{scratch}/wheels", ignore_errors=True)
    for content in peer.wheels("dependencies", why):
        _unpack(content, site)


def _fetchers(scratch: str, wanted: dict[str, Any]) -> Iterator[tuple[str, Callable[[], object]]]:
    wheels, names = f"{scratch}/wheels", wanted["requirements"]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    with suppress(SetupError):
        run([*pip, "--version"], 30)
        # Never `pip install`: the home's pip may be told by its configuration to put it elsewhere.
        pip += ["download", "--quiet", "--no-cache-dir", "--retries=1", "--timeout=10"]
        pip += ["--only-binary=:all:", "--dest", wheels, *names]
        yield "pip", lambda: run(pip, _FETCH_WITHIN_S)
    if wanted.get("uv"):
        python = f"{scratch}/bin/python"
        uv = [wanted["uv"], "pip", "install", "--quiet", "--no-cache", "--python", python]
        yield "uv", lambda: run([*uv, "--only-binary", ":all:", *names], _FETCH_WITHIN_S)
