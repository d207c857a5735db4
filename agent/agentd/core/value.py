"""A base for small records where dataclasses would cost too much."""

from __future__ import annotations


class Value:
    """Equal if of one type and equal in every slot. Never changed after `__init__`.

    For what a shim is made of: `dataclasses` would be a quarter of the memory with which every
    shim is forked, and its frozen `__init__` a call a field.
    """

    __slots__: tuple[str, ...] = ()

    def _fields(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in self.__slots__)

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other) or not isinstance(other, Value):
            return NotImplemented
        return self._fields() == other._fields()

    def __hash__(self) -> int:
        return hash(self._fields())

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__)
        return f"{type(self).__name__}({fields})"
