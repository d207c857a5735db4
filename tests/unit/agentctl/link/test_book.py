"""The host book: nothing lost, nothing half, nobody else's."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agentctl.errors import InvalidSpecError, UnsafeDirectoryError
from agentctl.link.book import Host, HostBook
from agentctl.paths import cache_directory, state_directory

_AT = datetime(2025, 3, 1, 12, tzinfo=UTC)
_GPU1 = Host("gpu1", "me@gpu1.example.org", "/home/me/.local/share/agentd/bin/agentd", "0.1.0", _AT)


def _entry(name: str, destination: str, agentd: str) -> str:
    """Return a book of one host, as somebody might have written it."""
    entry = {"destination": destination, "agentd": agentd, "version": "1"}
    entry["added_at"] = _AT.isoformat()
    return json.dumps({"format": 1, "hosts": {name: entry}})


@pytest.fixture(name="book")
def _book(tmp_path: Path) -> HostBook:
    """Return a book whose directory does not exist yet."""
    return HostBook(f"{tmp_path}/state/agentctl")


def test_what_was_put_is_found(book: HostBook) -> None:
    """A host comes back as it was entered; others are unknown."""
    book.put(_GPU1)

    assert book.find("gpu1") == _GPU1
    assert book.find("gpu2") is None


def test_a_book_that_was_never_written_is_empty(book: HostBook) -> None:
    """Reading makes no file and no directory."""
    assert book.all() == ()
    assert not book.remove("gpu1")
    assert not os.path.exists(book.directory)


def test_hosts_come_by_name(book: HostBook) -> None:
    """The order is that of the names, and a second entry of a name replaces the first."""
    for name in ("gpu2", "gpu1", "gpu2"):
        book.put(replace(_GPU1, name=name))

    assert [host.name for host in book.all()] == ["gpu1", "gpu2"]


def test_a_removed_host_is_gone(book: HostBook) -> None:
    """And it is told whether there was one."""
    book.put(_GPU1)

    assert book.remove("gpu1")
    assert not book.remove("gpu1")
    assert book.all() == ()


def test_the_book_is_the_users_alone(book: HostBook) -> None:
    """Directory 0700, file 0600, whatever the umask is."""
    book.put(_GPU1)

    assert stat.S_IMODE(os.stat(book.directory).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(book.path).st_mode) == 0o600


@pytest.mark.parametrize("what", ["directory", "path"])
def test_a_book_open_to_others_is_refused(book: HostBook, what: str) -> None:
    """Who could write it could send jobs elsewhere."""
    book.put(_GPU1)
    os.chmod(getattr(book, what), 0o740)

    with pytest.raises(UnsafeDirectoryError, match="chmod"):
        book.find("gpu1")


def test_a_symlink_in_place_of_the_book_is_refused(book: HostBook, tmp_path: Path) -> None:
    """The book is a plain file."""
    book.put(_GPU1)
    os.rename(book.path, tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", book.path)

    with pytest.raises(UnsafeDirectoryError, match="symlink"):
        book.all()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"hosts": {}}',
        '{"format": 2, "hosts": {}}',
        '{"format": 1, "hosts": {"gpu1": {}}}',
        '{"format": 1, "hosts": {"gpu1": 7}}',
        _entry("-x", "a", "/a"),
        _entry("a", "-oProxyCommand=x", "/a"),
        _entry("a", "a", "agentd"),
        _entry("a", "a", "/a\n"),
    ],
)
def test_a_spoilt_book_is_named(book: HostBook, content: str) -> None:
    """What cannot be understood, or would be dangerous, is refused with the file's name."""
    book.put(_GPU1)
    Path(book.path).write_text(content, encoding="utf-8")

    with pytest.raises(InvalidSpecError, match=r"hosts\.json cannot be understood"):
        book.all()


def test_writers_at_once_lose_nothing(book: HostBook) -> None:
    """Processes that enter hosts at the same time all have theirs in the book afterwards."""
    program = (
        "import sys; from datetime import UTC, datetime\n"
        "from agentctl.link.book import Host, HostBook\n"
        "for n in range(20):\n"
        "    name = f'h{sys.argv[2]}-{n}'\n"
        "    HostBook(sys.argv[1]).put(Host(name, name, '/a', '1', datetime.now(UTC)))\n"
    )
    writers = [
        subprocess.Popen([sys.executable, "-P", "-c", program, book.directory, str(number)])
        for number in range(4)
    ]

    assert [writer.wait(60) for writer in writers] == [0, 0, 0, 0]
    assert len(book.all()) == 80


def test_places_follow_the_environment() -> None:
    """$XDG_STATE_HOME and $XDG_CACHE_HOME count if they are absolute."""
    assert state_directory({"XDG_STATE_HOME": "/s", "HOME": "/h"}) == "/s/agentctl"
    assert state_directory({"XDG_STATE_HOME": "s", "HOME": "/h"}) == "/h/.local/state/agentctl"
    assert cache_directory({"HOME": "/h"}) == "/h/.cache/agentctl"
