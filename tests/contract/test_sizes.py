"""Code stays small: files and functions have caps, and typical ones are far below."""

from __future__ import annotations

import ast
import statistics
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = [
    path
    for source in ("agent", "client")
    for path in sorted((ROOT / source).rglob("*.py"))
    if path.stat().st_size
]
EVERYTHING = [*PRODUCT, *sorted((ROOT / "tests").rglob("*.py")), *(ROOT / "examples").glob("*.py")]


def _lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def _functions(path: Path) -> list[tuple[str, int]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    where = path.relative_to(ROOT)
    return [
        (f"{where}:{f.lineno} {f.name}", f.end_lineno - f.lineno + 1)
        for f in functions
        if f.end_lineno is not None
    ]


def test_no_file_exceeds_500_lines() -> None:
    """The hard cap of a file."""
    assert {str(p): n for p in EVERYTHING if (n := _lines(p)) > 500} == {}


def test_no_function_exceeds_80_lines() -> None:
    """The hard cap of a function, its docstring included."""
    assert {f: n for path in EVERYTHING for f, n in _functions(path) if n > 80} == {}


def test_a_typical_file_has_at_most_150_lines() -> None:
    """The median over agent and client."""
    assert statistics.median(map(_lines, PRODUCT)) <= 150


def test_a_typical_function_has_at_most_10_lines() -> None:
    """The median over agent and client, docstrings included."""
    assert statistics.median(n for path in PRODUCT for _, n in _functions(path)) <= 10


def test_every_test_says_what_fact_it_tests() -> None:
    """Each test function has a docstring of its own."""
    silent = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]

    assert silent == []


def test_only_the_wait_helper_sleeps() -> None:
    """No test sleeps in place of a wait; programs that are run as jobs may."""
    programs = ("wait.py", "jobs.py", "hogs.py", "vm/guest.py")
    jobs = {ROOT / "tests/helpers" / program for program in programs}
    sleeping = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        if path not in jobs and "bench" not in path.parts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"time.sleep", "sleep"}
    ]

    assert sleeping == []
