"""What a host may be called, and what ssh may be told to go to. Pure.

A name stands in file names, tables and command lines; a destination becomes a word of ssh's
own command line, where one that begins with "-" would be an option (`-oProxyCommand=...`).
"""

from __future__ import annotations

import re

from agentctl.errors import InvalidSpecError
from agentctl.link import LOCAL

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)
#: What OpenSSH itself refuses in a host since 9.6 (valid_hostname, valid_ruser): a ProxyCommand
#: of the user's may hand it to a shell.
_HOSTILE = re.compile(r"[\s\x00-\x1f\x7f'\"`$\\;&<>|(){}]")
#: More than any ssh takes, and little enough for a line.
_MAX_DESTINATION_CHARACTERS = 512


def check_name(name: str) -> str:
    """Return `name` if a host may be called so.

    Raises:
        InvalidSpecError: It may not; the message says what it may hold.

    """
    if not _NAME.fullmatch(name):
        raise InvalidSpecError(
            f"{name!r} is no name for a host: letters, digits, '.', '_' and '-', "
            "the first one a letter or a digit, 63 at most; "
            "for any other destination: agentctl host add NAME DESTINATION"
        )
    if name == LOCAL:
        raise InvalidSpecError(f"{LOCAL!r} is this machine; give the host another name")
    return name


def check_destination(destination: str) -> str:
    """Return `destination` if ssh can take it for nothing but its one destination word.

    Raises:
        InvalidSpecError: It is empty, an option, or has what a shell would act on.

    """
    shown = ascii(destination)
    if not destination or len(destination) > _MAX_DESTINATION_CHARACTERS:
        raise InvalidSpecError(f"{shown[:80]} is no destination for ssh: give [USER@]HOST")
    bare = destination.removeprefix("ssh://")
    words = (destination, bare, *bare.split("@"))
    if any(not word or word.startswith("-") for word in words):
        raise InvalidSpecError(f"{shown} is no destination for ssh: no part may begin with '-'")
    # Lone surrogates (bytes that are no text) and every kind of blank are not printable either.
    if _HOSTILE.search(destination) or not destination.isprintable():
        raise InvalidSpecError(
            f"{shown} is no destination for ssh: blanks, quotes and what a shell would act on "
            "cannot be part of it; give it a Host entry in ~/.ssh/config"
        )
    return destination
