"""The base of every record: a typed entry of the manifest.

A record is a msgspec.Struct: frozen, validated when read, unknown fields refused. Importing msgspec (with
typing, inspect, uuid, decimal behind it) costs twice what a whole Python start does, and a checkpoint only
writes records; so the ``checkpoint`` command calls ``write_only()`` first and gets a plain base class with
the same declarations, the same constructor and the same JSON.

Conventions that hold for both: fields with defaults come last; records are constructed by keyword; a member
of a union names itself by ``tag="..."``; field types are int, str, bool, float, bytes (base64 in JSON), None,
other records, ``list[...]``, ``dict[str, ...]`` and ``X | None``.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, dataclass_transform

__all__ = ["Record", "plain", "write_only"]

_writing_only = False


def write_only() -> None:
    """Make records writable only, for a process that will read none. Call before any kind is imported."""
    global _writing_only
    if "msgspec" not in sys.modules:
        _writing_only = True


def _lean_record() -> type:
    class Record:
        """Stands in for the Struct where records are only written."""

        __record_fields__: tuple[str, ...] = ()
        __record_tag__: str | None = None

        def __init_subclass__(cls, tag: str | None = None, **options: object) -> None:
            super().__init_subclass__(**options)
            cls.__record_fields__ = cls.__record_fields__ + tuple(vars(cls).get("__annotations__", ()))
            cls.__record_tag__ = tag

        def __init__(self, **fields: Any) -> None:
            for name in self.__record_fields__:
                if name in fields:
                    setattr(self, name, fields.pop(name))
                elif not hasattr(type(self), name):
                    raise TypeError(f"{type(self).__name__} needs {name}")
            if fields:
                raise TypeError(f"{type(self).__name__} has no {', '.join(fields)}")

        def __repr__(self) -> str:
            inside = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__record_fields__)
            return f"{type(self).__name__}({inside})"

        def __eq__(self, other: object) -> bool:
            return type(self) is type(other) and self.__dict__ == other.__dict__

        __hash__ = None  # type: ignore[assignment]

    return Record


if TYPE_CHECKING:

    @dataclass_transform(kw_only_default=True, frozen_default=True)
    class Record:
        """A typed entry of the manifest."""

        def __init_subclass__(cls, tag: str | None = None) -> None: ...


def __getattr__(name: str) -> Any:
    # The base class is made at its first use, so that write_only() can still choose.
    if name != "Record":
        raise AttributeError(name)
    if _writing_only:
        base = _lean_record()
    else:
        msgspec = _import_msgspec()
        base = msgspec.defstruct("Record", [], frozen=True, forbid_unknown_fields=True, module=__name__)
    globals()["Record"] = base
    return base


def _import_msgspec() -> Any:
    """msgspec takes typing_extensions, if it is there, for what typing has since 3.11; and that takes a third
    of the time (for inspect and ast). So it is hidden for a moment, unless it was imported before."""
    spared = "typing_extensions"
    hidden = spared not in sys.modules
    if hidden:
        sys.modules[spared] = None  # type: ignore[assignment]
    try:
        import msgspec
    finally:
        if hidden:
            del sys.modules[spared]
    return msgspec


def plain(value: Any) -> Any:
    """``value`` as what JSON knows: records become objects (with "type" where they are tagged)."""
    fields = getattr(value, "__record_fields__", None)
    if fields is not None:
        tag = value.__record_tag__
        start = {} if tag is None else {"type": tag}
        return start | {name: plain(getattr(value, name)) for name in fields}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, bytes):
        from binascii import b2a_base64

        return b2a_base64(value, newline=False).decode()
    if hasattr(value, "__struct_fields__"):
        import msgspec

        return msgspec.to_builtins(value)
    return value
