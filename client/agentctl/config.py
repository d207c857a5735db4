"""The client's part of config.toml: which host is meant when none is named, and which ssh."""

from __future__ import annotations

from collections.abc import Mapping

from agentctl.errors import InvalidSpecError

_SSH = ("ssh",)


def default_host(config_file: str) -> str | None:
    """Return `host` of the table `[client]`, or None.

    Raises:
        InvalidSpecError: The file cannot be understood; a guess could send a job to the
            wrong host.

    """
    host = _table(config_file, "client", "or name the host: -H local").get("host")
    if host is not None and (not isinstance(host, str) or not host):
        raise InvalidSpecError(f"{config_file}: client.host must be the name of a host")
    return host


def ssh_command(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the ssh to use and the options it always gets.

    That is $AGENTCTL_SSH as a shell would split it, else `command` of the table `[ssh]`, a
    list of words, else plain `ssh`. Options of the user's own, such as -F, belong here.

    Raises:
        InvalidSpecError: One of them cannot be understood; the message names it.

    """
    said = environ.get("AGENTCTL_SSH")
    if said:
        return _split(said)
    from agentctl.paths import default_paths

    config_file = default_paths(environ).config_file
    command = _table(config_file, "ssh", "or say it in $AGENTCTL_SSH").get("command")
    return _SSH if command is None else _checked(command, f"{config_file}: ssh.command")


def _split(said: str) -> tuple[str, ...]:
    import shlex

    try:
        words = shlex.split(said)
    except ValueError as error:
        raise InvalidSpecError(f"$AGENTCTL_SSH: {error}; quote it as for a shell") from None
    return _checked(words, "$AGENTCTL_SSH")


def _checked(command: object, where: str) -> tuple[str, ...]:
    if not isinstance(command, list) or not command:
        raise InvalidSpecError(f'{where} must be a list of words, as ["ssh", "-F", "my_config"]')
    for number, word in enumerate(command):
        if not isinstance(word, str):
            raise InvalidSpecError(f"{where}[{number}] must be text, not {word!r}")
        if "\0" in word or (number == 0 and (not word or word.startswith("-"))):
            raise InvalidSpecError(f"{where}[{number}] must be a word of a command, not {word!r}")
    return tuple(command)


def _table(config_file: str, name: str, or_else: str) -> dict[str, object]:
    """Return one table of the file, empty if there is none. Raises InvalidSpecError."""
    try:
        with open(config_file, "rb") as file:
            content = file.read()
    except OSError:
        return {}
    # Reading TOML costs 4 ms, and most files have nothing of it.
    if name.encode() not in content:
        return {}
    import tomllib

    try:
        table = tomllib.loads(content.decode()).get(name, {})
    except ValueError as error:
        raise InvalidSpecError(f"{config_file}: {error}; mend it, {or_else}") from None
    if not isinstance(table, dict):
        raise InvalidSpecError(f"{config_file}: [{name}] must be a table")
    return table
