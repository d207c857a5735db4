"""Generate the checked-in stubs of the wire contract.

`python protos/generate.py` writes them beside the protos; `--check` compares what is on
disk with what the pinned generator makes and exits 1 on any difference. The generator is
pinned in the dependency group `protos` and is old on purpose: it sets the lowest versions
of grpcio and protobuf that users may have.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc  # type: ignore[import-untyped]  # ships no type information

ROOT = Path(__file__).resolve().parent
PACKAGE = ROOT / "agentapi" / "v1"


def generate(into: Path) -> list[Path]:
    """Write the stubs of every proto below `into` and return their paths."""
    # protoc looks for protoc-gen-mypy on PATH; it stands beside this interpreter.
    beside = str(Path(sys.executable).parent)
    os.environ["PATH"] = os.pathsep.join((beside, os.environ.get("PATH", "")))
    protos = sorted(PACKAGE.glob("*.proto"))
    well_known = Path(protoc.__file__).parent / "_proto"
    arguments = [
        "protoc",
        f"-I{ROOT}",
        f"-I{well_known}",
        f"--python_out={into}",
        f"--mypy_out=quiet:{into}",
        f"--grpc_python_out={into}",
        f"--mypy_grpc_out=quiet:{into}",
        *(str(path) for path in protos),
    ]
    if protoc.main(arguments) != 0:
        raise SystemExit("protoc failed")
    return sorted(p for p in into.rglob("*_pb2*.py*") if "__pycache__" not in p.parts)


def main() -> int:
    """Generate, or with --check compare. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    check = parser.parse_args().check
    if not check:
        for path in generate(ROOT):
            print(path.relative_to(ROOT))
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        stale = [
            str(made.relative_to(scratch))
            for made in generate(Path(scratch))
            if not (disk := ROOT / made.relative_to(scratch)).exists()
            or disk.read_bytes() != made.read_bytes()
        ]
    for name in stale:
        print(f"stale: {name} (run make protos)", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
