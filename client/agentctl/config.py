"""The client's part of config.toml: which host is meant when none is named."""

from __future__ import annotations

from agentctl.errors import InvalidSpecError


def default_host(config_file: str) -> str | None:
    """Return `host` of the table `[client]`, or None.

    Raises:
        InvalidSpecError: The file cannot be understood; a guess could send a job to the
            wrong host.

    """
    try:
        with open(config_file, "rb") as file:
            content = file.read()
    except OSError:
        return None
    if b"client" not in content:
        return None
    import tomllib

    try:
        table = tomllib.loads(content.decode()).get("client", {})
    except ValueError as error:
        raise InvalidSpecError(
            f"{config_file}: {error}; mend it, or name the host: -H local"
        ) from None
    host = table.get("host") if isinstance(table, dict) else None
    if host is not None and (not isinstance(host, str) or not host):
        raise InvalidSpecError(f"{config_file}: client.host must be the name of a host")
    return host
