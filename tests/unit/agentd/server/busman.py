"""A private D-Bus bus with a small systemd of our own on it, and a real one."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from jeepney import (
    DBusAddress,
    HeaderFields,
    Message,
    MessageType,
    new_error,
    new_method_call,
    new_method_return,
)
from jeepney.io.asyncio import DBusRouter, open_dbus_connection

from tests.helpers.wait import wait_until

_NAME = "org.freedesktop.systemd1"
#: What a method is answered: signature and body; or the name of an error; None: nothing.
Answer = tuple[str, tuple[Any, ...]] | str | None
Answers = Callable[[str, tuple[Any, ...]], Answer]


def _takes_calls(path: str) -> bool:
    """Say whether somebody listens there: the name comes first, listening second."""
    with socket.socket(socket.AF_UNIX) as caller:
        return caller.connect_ex(path) == 0


@contextmanager
def private_bus(directory: str) -> Iterator[str]:
    """Yield the address of a dbus-daemon of our own."""
    path = f"{directory}/bus"
    address = f"unix:path={path}"
    command = ["dbus-daemon", "--session", "--nofork", "--nosyslog", f"--address={address}"]
    daemon = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: _takes_calls(path), what="the bus")
        yield address
    finally:
        daemon.kill()
        daemon.wait()


@asynccontextmanager
async def manager(bus: str, answers: Answers) -> AsyncIterator[list[tuple[str, tuple[Any, ...]]]]:
    """Answer calls to org.freedesktop.systemd1; yields the list of those that came."""
    came: list[tuple[str, tuple[Any, ...]]] = []
    async with await open_dbus_connection(bus) as connection:
        daemon = DBusAddress("/org/freedesktop/DBus", "org.freedesktop.DBus")
        async with DBusRouter(connection) as router:
            await router.send_and_get_reply(
                new_method_call(daemon, "RequestName", "su", (_NAME, 0))
            )

        async def serve() -> None:
            while True:
                call = await connection.receive()
                if call.header.message_type is not MessageType.method_call:
                    continue
                method = call.header.fields[HeaderFields.member]
                came.append((method, call.body))
                reply = _reply(call, answers(method, call.body))
                if reply is not None:
                    await connection.send(reply)

        serving = asyncio.create_task(serve())
        try:
            yield came
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)


def _reply(call: Message, answer: Answer) -> Message | None:
    if answer is None:
        return None
    if isinstance(answer, str):
        return new_error(call, answer, "s", ("because of a test",))
    signature, body = answer
    return new_method_return(call, signature or None, body)
