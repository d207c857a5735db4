"""The disks of the test machine: made once for each version of their recipe, then kept."""

from __future__ import annotations

import compileall
import fcntl
import hashlib
import json
import os
import py_compile
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.helpers.hogs import build, cache_directory

_HERE = Path(__file__).parent
_ROOT = _HERE.parents[2]
#: What Debian 12 has: what is compiled must be compiled for it.
_GUEST_PYTHON = (3, 11)
_PLATFORMS = ("manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_28_x86_64")
_SITE_MIB = 400
_RIG_MIB = 32


def machine_directory() -> Path:
    """Return where disk.img, vmlinuz and initrd of the machine are; makes them if need be.

    Raises:
        AssertionError: The recipe failed; it needs root and a Debian mirror.

    """
    recipe = _HERE / "recipe.sh"
    made = _cached("machine", recipe.read_bytes())
    with _locked(made):
        if not made.exists():
            with _scratch(made) as scratch:
                as_root = () if os.geteuid() == 0 else ("sudo", "-n")
                _run(*as_root, "sh", str(recipe), str(scratch))
    return made


def site_disk() -> Path:
    """Return the disk with what the project depends on, for the guest's interpreter."""
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = sorted(project["dependencies"])
    made = _cached("site", json.dumps([wanted, _GUEST_PYTHON, _PLATFORMS]).encode())
    with _locked(made):
        if not made.exists():
            with _scratch(made) as scratch:
                tree = scratch / "tree"
                _install(wanted, tree)
                _compile(tree)
                _make_disk(tree, scratch / "disk.img", _SITE_MIB)
                shutil.rmtree(tree)
    return made / "disk.img"


def rig_disk(directory: Path, plan: Mapping[str, object]) -> Path:
    """Return a fresh disk in `directory` with the project as it stands, a hog and the plan."""
    tree = directory / "rig"
    for source in ("agent/agentd", "client/agentctl", "protos/agentapi"):
        shutil.copytree(
            _ROOT / source, tree / Path(source).name, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(_HERE.parent / "hogs.py", tree)
    shutil.copy(_HERE / "guest.py", tree)
    shutil.copy(build(), tree / "hog")
    (tree / "plan.json").write_text(json.dumps(dict(plan)), encoding="utf-8")
    _compile(tree)
    disk = directory / "rig.img"
    _make_disk(tree, disk, _RIG_MIB)
    return disk


def _install(wanted: list[str], tree: Path) -> None:
    version = ".".join(map(str, _GUEST_PYTHON))
    platforms = [word for name in _PLATFORMS for word in ("--platform", name)]
    _run(
        *(sys.executable, "-m", "pip", "install", "--quiet", "--target", str(tree)),
        *("--only-binary=:all:", "--implementation", "cp", "--python-version", version),
        *platforms,
        *wanted,
    )


def _run(*command: str) -> None:
    """Run a command to its end; what it says is worth reading only if it fails."""
    # Where Debian keeps what makes file systems; not on every user's PATH.
    environment = {**os.environ, "PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


def _compile(tree: Path) -> None:
    """Compile what the guest could not keep: its disks are read-only and it is slow."""
    if sys.version_info[:2] == _GUEST_PYTHON:
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        compileall.compile_dir(tree, quiet=2, invalidation_mode=mode)


def _make_disk(tree: Path, disk: Path, size_mib: int) -> None:
    options = ("-t", "ext4", "-O", "^has_journal", "-m", "0", "-E", "root_owner=0:0")
    _run("mke2fs", "-q", *options, "-d", str(tree), str(disk), f"{size_mib}M")


def _cached(what: str, recipe: bytes) -> Path:
    return Path(cache_directory()) / f"{what}-{hashlib.sha256(recipe).hexdigest()[:16]}"


@contextmanager
def _locked(made: Path) -> Iterator[None]:
    """Let one maker at a time at it."""
    with made.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _scratch(made: Path) -> Iterator[Path]:
    """Yield a directory that takes its name only when all is in it; others of its kind go."""
    scratch = Path(tempfile.mkdtemp(prefix=f"{made.name}.", dir=made.parent))
    try:
        yield scratch
        kind = made.name.partition("-")[0]
        for old in made.parent.glob(f"{kind}-*"):
            if old.is_dir() and old != scratch:
                shutil.rmtree(old, ignore_errors=True)
        scratch.rename(made)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
