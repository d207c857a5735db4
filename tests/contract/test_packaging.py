"""What is shipped: one distribution, three packages, one version."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import agentctl
import agentd

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(name="wheel_names", scope="module")
def _wheel_names(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the names in a wheel built from this tree, without network."""
    directory = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(directory)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    with zipfile.ZipFile(next(directory.glob("*.whl"))) as wheel:
        return wheel.namelist()


def test_wheel_has_exactly_three_packages(wheel_names: list[str]) -> None:
    """Nothing but agentd, agentctl, agentapi and the metadata is installed."""
    tops = {name.split("/")[0] for name in wheel_names}

    assert {"agentd", "agentctl", "agentapi"} == {t for t in tops if not t.endswith(".dist-info")}


def test_wheel_has_stubs_and_type_marker(wheel_names: list[str]) -> None:
    """The wheel needs no compiler: the generated modules and py.typed are in it."""
    assert "agentapi/v1/job_pb2.py" in wheel_names
    assert "agentapi/v1/job_service_pb2_grpc.py" in wheel_names
    assert "agentapi/py.typed" in wheel_names
    assert "agentctl/py.typed" in wheel_names


def test_wheel_has_no_tests_and_no_tools(wheel_names: list[str]) -> None:
    """Neither tests nor the generator end up in site-packages."""
    assert [n for n in wheel_names if "test" in n or n.endswith("generate.py")] == []


def test_both_commands_are_installed() -> None:
    """The distribution has the console scripts agentctl and agentd."""
    scripts = importlib.metadata.distribution("agentctl").entry_points

    assert {"agentctl", "agentd"} == {s.name for s in scripts if s.group == "console_scripts"}


def test_agent_and_client_have_one_version() -> None:
    """Both halves of the distribution say the version of its metadata."""
    assert agentd.__version__ == agentctl.__version__
    assert importlib.metadata.version("agentctl") == agentd.__version__


def test_changelog_knows_the_version() -> None:
    """The version in the package has a section in CHANGELOG.md."""
    assert f"## [{agentd.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_generator_sets_the_runtime_floor() -> None:
    """Users may have the grpcio that the pinned generator writes for, and nothing older."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    pinned = next(d for d in project["dependency-groups"]["protos"] if "grpcio-tools" in d)

    floor = f"grpcio>={pinned.partition('==')[2]}"
    assert floor in project["project"]["dependencies"]
