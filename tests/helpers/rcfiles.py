"""Start-up files that write where they should not, as half of all accounts have them."""

from __future__ import annotations

from pathlib import Path

_BASH = r"""
echo "Welcome to gpu1, today is $(date)"
printf '\033[1;31mquota: 98 %% used\033[0m\r\n'
printf 'binary: \001\377\376 {"version": "0.0.1"} HTTP/2\n'
echo "module: command not found" >&2
printf 'no newline at the end'
"""
_CSH = r"""
echo "Welcome to gpu1 from csh"
printf 'binary: \001\377 {"version": "0.0.1"}\n'
sh -c 'echo "module: command not found" >&2'
printf 'no newline at the end'
"""
_FISH = r"""
echo "Welcome to gpu1 from fish"
printf 'binary: \001 {"version": "0.0.1"}\n'
echo "module: command not found" >&2
printf 'no newline at the end'
"""


_FILES = {
    ".bashrc": _BASH,
    ".zshenv": _BASH,
    ".cshrc": _CSH,
    ".config/fish/config.fish": _FISH,
}
_FILE_OF = {"tcsh": ".cshrc", "csh": ".cshrc", "fish": ".config/fish/config.fish"}


def write_noisy(home: str, shell: str | None = None) -> None:
    """Write that of `shell` into the home directory `home`; without one those of all shells."""
    for name, text in _FILES.items():
        if shell is None or name == _FILE_OF.get(shell, ".bashrc"):
            path = Path(f"{home}/{name}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
