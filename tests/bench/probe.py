"""The program whose first or last instruction is measured; see probe.c.

Compiled where there is a C compiler; else this file itself is run, with the same words, and
every figure then holds the start of an interpreter on both sides.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path


def build(directory: str) -> tuple[str, ...]:
    """Return the argument vector of the probe, compiled into `directory` if possible."""
    program = f"{directory}/probe"
    source = str(Path(__file__).with_suffix(".c"))
    for flags in (("-O2", "-static"), ("-O2",)):
        try:
            built = subprocess.run(
                ["cc", *flags, "-o", program, source], capture_output=True, check=False
            )
        except FileNotFoundError:
            break
        if built.returncode == 0:
            return (program,)
    return (sys.executable, "-I", "-S", os.path.abspath(__file__))


def read_note(path: str) -> int:
    """Return what a probe wrote to its file, 0 before that."""
    try:
        return int(Path(path).read_text(encoding="ascii"))
    except FileNotFoundError:
        return 0


def _put(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


def _main(mode: str, count_or_file: str, file: str = "") -> None:
    began = time.monotonic_ns()
    if mode == "stamp":
        _note(count_or_file, began)
        return
    for index in range(int(count_or_file)):
        if mode == "blocks":
            _put(b"x" * 65536)
        elif mode == "lines":
            _put(b"step %d loss 0.1234\n" % index)
        else:
            time.sleep(0.02)
            _put(b"%d\n" % time.monotonic_ns())
    if file:
        _note(file, time.monotonic_ns() - began)


def _note(path: str, value: int) -> None:
    with open(f"{path}.tmp", "w", encoding="ascii") as file:
        file.write(f"{value}\n")
    os.rename(f"{path}.tmp", path)


if __name__ == "__main__":
    _main(*sys.argv[1:])
