"""What a link remembers in the runtime directory: small JSON files, replaced as a whole."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from agentctl.errors import HostUnreachableError

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
    temporary = f"{path}.new"
    try:
        forget(temporary)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(temporary, flags, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(json.dumps(content).encode())
        os.rename(temporary, path)
    except OSError as error:
        raise HostUnreachableError(
            f"cannot write {path}: {error.strerror}; make room there"
        ) from None


def forget(path: str) -> None:
    """Remove a file or a socket, if it is there."""
    try:
        os.unlink(path)
    except OSError:
        # Gone, or in a directory that is: there is nothing to be found in either.
        pass
