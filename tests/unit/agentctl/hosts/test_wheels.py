"""Wheels out of what is installed here, and those that pip is asked for."""

from __future__ import annotations

import ast
import os
import platform
import sys
import zipfile
from io import BytesIO
from pathlib import Path

import pytest

from agentctl import __version__
from agentctl.hosts import remote
from agentctl.hosts.download import downloaders
from agentctl.hosts.target import Glibc, Musl, Target
from agentctl.hosts.wheels import installed_wheels, own_wheel, requirements

_HERE = Target(
    sys.executable,
    (sys.version_info[0], sys.version_info[1]),
    f"cp{sys.version_info[0]}{sys.version_info[1]}",
    platform.machine(),
    Glibc(int((platform.libc_ver()[1] or "2.17").split(".")[1])),
)


def test_own_wheel_has_the_whole_package() -> None:
    """Three packages and the metadata, from an editable installation too; nothing compiled."""
    with zipfile.ZipFile(BytesIO(own_wheel().content)) as wheel:
        names = wheel.namelist()

    assert {name.split("/")[0] for name in names} == {
        "agentapi",
        "agentctl",
        "agentd",
        f"agentctl-{__version__}.dist-info",
    }
    assert {"agentd/__main__.py", "agentapi/v1/job_pb2.py", "agentctl/py.typed"} <= set(names)
    assert not [name for name in names if "__pycache__" in name]


def test_own_wheel_is_always_the_same() -> None:
    """Its digest names an installation: the same files must give the same one."""
    assert own_wheel() == own_wheel()


def test_a_server_like_this_machine_gets_what_is_installed_here() -> None:
    """All dependencies, those of dependencies too, without any download."""
    wheels = installed_wheels(_HERE)

    assert wheels is not None
    names = {wheel.name.split("-")[0].lower() for wheel in wheels}
    assert {"grpcio", "protobuf", "click", "rich", "markdown_it_py", "mdurl"} <= names


@pytest.mark.parametrize(
    "other",
    [
        Target("/p", (3, 99), "cp399", platform.machine(), Glibc(36)),
        Target("/p", _HERE.version, _HERE.abi, "sparc", Glibc(36)),
        Target("/p", _HERE.version, _HERE.abi, platform.machine(), Glibc(5)),
        Target("/p", _HERE.version, _HERE.abi, platform.machine(), Musl()),
    ],
)
def test_another_server_does_not(other: Target) -> None:
    """Another Python, machine or C library needs wheels of its own."""
    assert installed_wheels(other) is None


def test_pip_is_asked_for_the_servers_platform() -> None:
    """Not for this machine's: its Python, its ABIs, every platform whose wheels run there."""
    target = Target("/p", (3, 12), "cp312", "aarch64", Glibc(28))

    argv, tree = next(iter(downloaders(target, requirements(), "/d")))

    assert tree is None
    assert {"--only-binary=:all:", "--python-version=3.12", "--implementation=cp"} <= set(argv)
    assert {"--abi=cp312", "--abi=abi3", "--abi=none"} <= set(argv)
    assert {"--platform=manylinux_2_28_aarch64", "--platform=manylinux2014_aarch64"} <= set(argv)
    assert argv[-1].startswith("watchdog")


def test_what_runs_on_the_server_needs_the_standard_library_alone() -> None:
    """Of agentctl it imports its own modules and no others."""
    directory = Path(os.path.dirname(remote.__file__))
    stdlib = set(sys.stdlib_module_names)
    for path in directory.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= stdlib, path
            if isinstance(node, ast.ImportFrom):
                module = str(node.module)
                ours = module.startswith("agentctl.hosts.remote.")
                assert ours or module.split(".", maxsplit=1)[0] in stdlib, (path, module)
