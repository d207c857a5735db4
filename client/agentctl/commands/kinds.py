"""Kinds of option values, refused with the option's name before anything is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from agentctl.units import parse_duration, parse_size

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class _Kind(click.ParamType):  # type: ignore[type-arg]  # generic only in newer versions of click
    def convert(
        self,
        value: Any,  # noqa: ANN401  # click's signature
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Any:  # noqa: ANN401  # click's signature
        """Return the value; a ValueError becomes click's complaint."""
        try:
            return self.read(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)

    def read(self, value: Any) -> Any:  # noqa: ANN401  # each kind narrows it
        raise NotImplementedError


class Size(_Kind):
    """`16G`: bytes."""

    name = "size"

    def read(self, value: str | int) -> int:
        """Return bytes. Raises ValueError."""
        return parse_size(str(value))


class SizeText(_Kind):
    """`16G`: a size as it was written, so that a complaint can quote it."""

    name = "size"

    def read(self, value: str | int) -> str:
        """Return it unchanged. Raises ValueError."""
        parse_size(str(value))
        return str(value).strip()


class DurationKind(_Kind):
    """`8h`: seconds."""

    name = "duration"

    def read(self, value: str | float) -> float:
        """Return seconds. Raises ValueError."""
        return parse_duration(str(value))


class Pair(_Kind):
    """`K=V`."""

    name = "key=value"

    def __init__(self, alone: str = "write KEY=VALUE") -> None:
        """Say `alone` about a value without an equals sign."""
        self._alone = alone

    def read(self, value: str | tuple[str, str]) -> tuple[str, str]:
        """Return key and value. Raises ValueError."""
        if isinstance(value, tuple):
            return value
        key, equals, rest = value.partition("=")
        if not equals:
            raise ValueError(f"{value!r} has no value; {self._alone}")
        if not key:
            raise ValueError(f"{value!r} has no name before the =")
        return key, rest


class SignalKind(_Kind):
    """`USR1`, `SIGUSR1` or `10`."""

    name = "signal"

    def read(self, value: str | int) -> int:
        """Return the number. Raises ValueError."""
        from agentctl.model import signal_number

        return signal_number(str(value))

    def shell_complete(
        self,
        ctx: click.Context,  # noqa: ARG002  # click's signature
        param: click.Parameter,  # noqa: ARG002  # click's signature
        incomplete: str,
    ) -> list[CompletionItem]:
        """Offer the names, with or without SIG as it was begun."""
        import signal

        from click.shell_completion import CompletionItem

        begun = incomplete.upper()
        prefix = "SIG" if begun.startswith("SIG") else ""
        names = (prefix + known.name.removeprefix("SIG") for known in signal.Signals)
        return [CompletionItem(name) for name in names if name.startswith(begun)]


class CommandWord(click.ParamType):  # type: ignore[type-arg]  # generic only in newer versions of click
    """A word of somebody else's command line: taken as it is, completed as a file."""

    name = "word"

    def shell_complete(
        self,
        ctx: click.Context,  # noqa: ARG002  # click's signature
        param: click.Parameter,  # noqa: ARG002  # click's signature
        incomplete: str,
    ) -> list[CompletionItem]:
        """Leave it to the shell."""
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="file")]


class Moment(_Kind):
    """`10m` ago, or a time."""

    name = "when"

    def read(self, value: Any) -> Any:  # noqa: ANN401  # datetime is not imported for every verb
        """Return an aware time. Raises ValueError."""
        from datetime import UTC, datetime

        from agentctl.moments import read_moment

        return read_moment(value, datetime.now(UTC))


SIZE = Size()
SIZE_TEXT = SizeText()
DURATION = DurationKind()
SIGNAL = SignalKind()
COMMAND_WORD = CommandWord()
MOMENT = Moment()
