"""What there is on a server: one small shell script, and what its answer means. Pure.

The script goes to `sh` on stdin, whatever the login shell is, and each line of its answer
stands after a random mark: what rc files print is not taken for an answer.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass

from agentctl.errors import HostUnreachableError, RefusedError
from agentctl.hosts.target import OLDEST_PYTHON, Target, is_plain_path, read_target
from agentctl.words import printable

#: What every login shell understands as "become sh, and read on".
SHELL = "exec sh"
#: The Python that uv is asked for where there is none.
UV_PYTHON = "3.12"
_OLDEST = ".".join(map(str, OLDEST_PYTHON))
_LONGEST_SAID = 200

_DESCRIBE = """\
import json, platform, sys, sysconfig
get = sysconfig.get_config_var
libc, libc_version = platform.libc_ver()
print(json.dumps({
    "python": getattr(sys, "_base_executable", None) or sys.executable,
    "implementation": sys.implementation.name,
    "major": sys.version_info[0], "minor": sys.version_info[1],
    "soabi": get("SOABI"), "host_type": get("HOST_GNU_TYPE"),
    "is_free_threaded": bool(get("Py_GIL_DISABLED")),
    "platform": sysconfig.get_platform(), "libc": libc, "libc_version": libc_version,
}))
"""

# Names first: what the user's PATH finds is what the user means.
_PLACES = (
    "python3 python3.14 python3.13 python3.12 python3.11 "
    '"$HOME"/.local/bin/python3 "$HOME"/.local/bin/python3.1[1-9] '
    '"$HOME"/.pyenv/shims/python3 "$HOME"/miniforge3/bin/python3 "$HOME"/miniconda3/bin/python3 '
    '"$HOME"/anaconda3/bin/python3 /usr/local/bin/python3 '
    '"${XDG_DATA_HOME:-$HOME/.local/share}"/agentd/python/*/bin/python3'
)

# Its first line ends one that rc files may have left open.
_SCRIPT = """\
printf '\\n'
say() {{ printf '%s %s\\n' {mark} "$*"; }}
describe={describe}
is_new_enough='import sys; sys.exit(sys.version_info[:2] < {oldest})'
for name in {places}; do
    path=$(command -v "$name" 2>/dev/null) || continue
    if "$path" -I -c "$is_new_enough" </dev/null >/dev/null 2>&1; then
        say python "$("$path" -I -c "$describe" </dev/null 2>/dev/null)"
        break
    fi
    say old "$path" "$("$path" --version </dev/null 2>&1)"
done
for name in uv "$HOME/.local/bin/uv" "$HOME/.cargo/bin/uv"; do
    path=$(command -v "$name" 2>/dev/null) || continue
    say uv "$path"
    break
done
say end
"""

# uv makes the agent's directory, in which nobody else may write.
_BRING = """\
umask 077
printf '\\n'
UV_PYTHON_INSTALL_DIR="${{XDG_DATA_HOME:-$HOME/.local/share}}/agentd/python"
UV_PYTHON_INSTALL_BIN=0
export UV_PYTHON_INSTALL_DIR UV_PYTHON_INSTALL_BIN
said=$({uv} python install {version} </dev/null 2>&1)
printf '%s %s %s\\n' {mark} said "$(printf %s "$said" | tail -n 1)"
printf '%s %s\\n' {mark} end
"""


@dataclass(frozen=True, slots=True)
class Findings:
    """What a server has."""

    target: Target | None
    #: Absolute path of an installed uv.
    uv: str | None
    #: Pythons that are too old or do not run: the path, and what it said.
    old: tuple[str, ...]


def look_script(mark: str, python: str | None) -> bytes:
    """Return the script that looks for a Python, or at the one asked for, and for uv."""
    places = _PLACES if python is None else shlex.quote(python)
    return _SCRIPT.format(
        mark=mark, describe=shlex.quote(_DESCRIBE), oldest=OLDEST_PYTHON, places=places
    ).encode()


def bring_script(mark: str, uv: str) -> bytes:
    """Return the script that has uv bring a Python into the agent's own directory."""
    return _BRING.format(mark=mark, uv=shlex.quote(uv), version=UV_PYTHON).encode()


def answer_lines(said: bytes, complaint: bytes, mark: str, name: str) -> list[str]:
    """Return what stands after the mark, up to the word "end".

    Raises:
        HostUnreachableError: The answer is not whole: the login shell did something else.

    """
    text = said.decode("utf-8", "replace")
    lines = [
        printable(line.removeprefix(f"{mark} "))
        for line in text.split("\n")
        if line.startswith(f"{mark} ")
    ]
    if not lines or lines[-1] != "end":
        noise = (complaint.decode("utf-8", "replace").strip() or text.strip()).splitlines()
        heard = f"; it said: {printable(noise[-1].strip())[:_LONGEST_SAID]}" if noise else ""
        raise HostUnreachableError(
            f"the login shell of {name} does not run commands{heard}; "
            "see that its rc files neither exit nor start another shell when there is no terminal"
        )
    return lines[:-1]


def read_findings(lines: list[str], name: str) -> Findings:
    """Return what the lines of `look_script`'s answer say.

    Raises:
        RefusedError: There is a Python, and no agent can be installed for it.

    """
    target: Target | None = None
    uv: str | None = None
    old = []
    for line in lines:
        kind, _, rest = line.partition(" ")
        if kind == "python":
            try:
                target = read_target(json.loads(rest))
            except RecursionError:
                raise RefusedError(f"cannot set up {name}: its Python tells nonsense") from None
            except ValueError as error:
                raise RefusedError(printable(f"cannot set up {name}: {error}")) from None
        elif kind == "uv" and is_plain_path(rest):
            uv = rest
        elif kind == "old":
            old.append(rest)
    return Findings(target, uv, tuple(old))


def no_python(findings: Findings, name: str, python: str | None, brought: str = "") -> RefusedError:
    """Return the error that says what to do about a server without a Python."""
    found = f" (found {'; '.join(findings.old)})" if findings.old else ""
    if python is not None:
        return RefusedError(
            f"{python} on {name} is no Python {_OLDEST} or newer{found}; name another, or "
            "leave --python out to have one looked for"
        )
    if brought:
        return RefusedError(
            f"{name} has no Python {_OLDEST} or newer{found}, and its uv could not bring one: "
            f"{brought[:_LONGEST_SAID]}"
        )
    return RefusedError(
        f"{name} has no Python {_OLDEST} or newer{found}; install one there, or uv, or name one: "
        f"agentctl host add {name} --python /path/to/python3"
    )
