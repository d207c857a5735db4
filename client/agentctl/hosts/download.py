"""Wheels that this machine downloads for a server: by pip, or by uv, and kept in a cache."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence

from agentctl.errors import RefusedError
from agentctl.hosts.target import Musl, Target
from agentctl.hosts.wheels import Wheel, packed
from agentctl.paths import cache_directory

#: For all that may be tried; the server waits longer (`remote.peer`).
_DOWNLOAD_WITHIN_S = 300.0


def downloaded_wheels(
    target: Target, requirements: Sequence[str], environ: Mapping[str, str]
) -> tuple[Wheel, ...]:
    """Return the wheels of all these requirements for the target, from the cache if possible.

    Raises:
        RefusedError: They could not be had; the message says why.
        OSError: The cache cannot be written.

    """
    cache = f"{cache_directory(environ)}/wheels"
    key = hashlib.sha256(repr((target.platforms, target.abis, sorted(requirements))).encode())
    place = f"{cache}/{target.tag}-{key.hexdigest()[:16]}"
    if not os.path.isdir(place):
        os.makedirs(cache, 0o700, exist_ok=True)
        scratch = tempfile.mkdtemp(prefix=".new-", dir=cache)
        try:
            _download(target, requirements, scratch)
            _keep(scratch, place)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return tuple(_read(f"{place}/{name}") for name in sorted(os.listdir(place)))


def _keep(scratch: str, place: str) -> None:
    try:
        os.rename(scratch, place)
    except OSError:
        # Another one was quicker, and brought the same.
        if not os.path.isdir(place):
            raise


def _read(path: str) -> Wheel:
    with open(path, "rb") as file:
        return Wheel(os.path.basename(path), file.read())


def _download(target: Target, requirements: Sequence[str], directory: str) -> None:
    complaint = ""
    deadline_s = time.monotonic() + _DOWNLOAD_WITHIN_S
    for argv, tree in downloaders(target, requirements, directory):
        try:
            done = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=max(0.0, deadline_s - time.monotonic()),
                check=False,
            )
        except FileNotFoundError:
            continue
        except subprocess.TimeoutExpired:
            raise RefusedError(
                f"the wheels for the server took longer than {_DOWNLOAD_WITHIN_S:.0f} s; try again"
            ) from None
        if done.returncode == 0:
            if tree is not None:
                _pack_tree(tree, directory)
            return
        said = done.stderr.decode("utf-8", "replace")
        if "No module named pip" not in said:
            lines = [line.strip() for line in said.splitlines() if line.strip()]
            complaint = lines[-1] if lines else f"exit code {done.returncode}"
    if complaint:
        raise RefusedError(f"the wheels for the server could not be downloaded: {complaint}")
    raise RefusedError(
        "the wheels for the server cannot be downloaded: this machine has neither pip nor uv; "
        "install one of them"
    )


def downloaders(
    target: Target, requirements: Sequence[str], directory: str
) -> Iterator[tuple[list[str], str | None]]:
    """Yield command lines that bring the wheels into `directory`, and the tree they make. Pure."""
    pip = ["download", "--quiet", "--disable-pip-version-check", "--no-input"]
    pip += ["--only-binary=:all:", f"--dest={directory}", "--implementation=cp"]
    pip += [f"--python-version={target.version[0]}.{target.version[1]}"]
    pip += [f"--platform={platform}" for platform in target.platforms]
    pip += [f"--abi={abi}" for abi in target.abis]
    yield [sys.executable, "-m", "pip", *pip, *requirements], None
    libc = "unknown-linux-musl" if isinstance(target.libc, Musl) else _newest_manylinux(target)
    tree = f"{directory}/tree"
    uv = ["uv", "pip", "install", "--quiet", "--only-binary=:all:", f"--target={tree}"]
    uv += [f"--python-version={target.version[0]}.{target.version[1]}"]
    yield [*uv, f"--python-platform={target.machine}-{libc}", *requirements], tree
    yield ["pip3", *pip, *requirements], None


def _newest_manylinux(target: Target) -> str:
    # uv knows some versions by name; these are the ones wheels are built for.
    minor = 0 if isinstance(target.libc, Musl) else target.libc.minor
    return next((f"manylinux_2_{n}" for n in (28, 17) if n <= minor), "manylinux2014")


def _pack_tree(tree: str, directory: str) -> None:
    """Make one archive of what uv installed: it is unpacked like a wheel."""
    files = {}
    for root, below, names in os.walk(tree):
        below[:] = [name for name in below if name not in ("__pycache__", "bin")]
        for name in names:
            with open(f"{root}/{name}", "rb") as file:
                files[os.path.relpath(f"{root}/{name}", tree)] = file.read()
    shutil.rmtree(tree)
    with open(f"{directory}/dependencies.whl", "wb") as file:
        file.write(packed(files))
