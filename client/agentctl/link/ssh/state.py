"""What a link remembers in the runtime directory: small JSON files, replaced as a whole."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from agentctl.errors import HostUnreachableError
from agentctl.link.private import replace_file

_LONGEST_BYTES = 65536


def key(*words: str) -> str:
    """Return a short name for these words: 16 hexadecimal digits."""
    # hashlib would load OpenSSL for it, 3 ms that every warm command would pay.
    from _blake2 import blake2b

    return blake2b("\0".join(words).encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()


def load(path: str) -> Mapping[str, object]:
    """Return what was stored there; empty if there is nothing that can be understood."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return {}
    try:
        content = json.loads(os.read(descriptor, _LONGEST_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    finally:
        os.close(descriptor)
    return content if isinstance(content, dict) else {}


def store(path: str, content: Mapping[str, object]) -> None:
    """Replace the file. The caller holds the lock. Raises HostUnreachableError."""
    try:
        replace_file(path, json.dumps(content).encode())
    except OSError as error:
        raise HostUnreachableError(
            f"cannot write {path}: {error.strerror}; make room there"
        ) from None
