"""Who may import whom: the rule of docs/ARCHITECTURE.md, read from the code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).resolve().parents[2]
#: What a shim keeps in memory times the number of jobs, and what may never fail.
STDLIB_ONLY = (
    "agentd.core",
    "agentd.system",
    "agentd.shim",
    "agentd.warden",
    "agentd.bridge",
    "agentd.ownlog",
    "agentd.paths",
)


def test_every_import_contract_is_kept() -> None:
    """import-linter finds the layers of pyproject.toml in the code, and nothing across them."""
    linter = str(Path(sys.executable).parent / "lint-imports")
    linted = subprocess.run([linter], cwd=ROOT, capture_output=True, text=True, check=False)

    assert linted.returncode == 0, linted.stdout


@pytest.mark.parametrize("package", STDLIB_ONLY)
def test_what_must_not_fail_imports_the_standard_library_alone(package: str) -> None:
    """No module below the server imports anything that would have to be installed."""
    graph = grimp.build_graph("agentd", include_external_packages=True)
    modules = {package, *graph.find_descendants(package)}
    imported = {name for m in modules for name in graph.find_modules_directly_imported_by(m)}

    foreign = {n for n in imported if n.partition(".")[0] not in {"agentd", *_stdlib()}}
    assert foreign == set()


def _stdlib() -> frozenset[str]:
    return frozenset(sys.stdlib_module_names)


def _loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print('\\n'.join(sys.modules))"
    command = [sys.executable, "-P", "-c", code]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


def test_importing_the_client_loads_no_grpc() -> None:
    """`import agentctl` is cheap: grpc comes with the first call, not with the name."""
    assert _loaded_by("import agentctl") & {"grpc", "google.protobuf", "rich", "agentapi"} == set()


@pytest.mark.parametrize("words", [["--help"], ["submit", "--help"], ["ls", "--help"]])
def test_help_loads_neither_grpc_nor_rich(words: list[str]) -> None:
    """Help and completion import the command they show and nothing heavy."""
    statement = f"from agentctl.cli import main; sys.argv[1:] = {words!r}\ntry: main()\n"
    statement += "except SystemExit: pass\n"
    code = f"import sys\n{statement}print('\\n'.join(['MODULES', *sys.modules]))"
    ran = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    )

    loaded = set(ran.stdout.partition("MODULES")[2].split())
    assert loaded & {"grpc", "google.protobuf", "rich", "rich.console", "agentapi"} == set()


def test_a_command_loads_no_openssl() -> None:
    """What gRPC's asyncio would load for nothing is left out, and only there."""
    statement = "from agentctl.commands.base import Settings; Settings().client()"

    assert _loaded_by(statement) & {"grpc", "ssl", "_ssl"} == {"grpc"}
    assert "_ssl" in _loaded_by(f"{statement}; import ssl")


def test_the_warden_loads_no_threads_and_no_grpc() -> None:
    """What forks every shim holds nothing that does not survive fork(2) or costs memory."""
    loaded = _loaded_by("import agentd.app, agentd.warden.main")

    assert loaded & {"grpc", "asyncio", "threading", "structlog", "watchdog", "sqlite3"} == set()
