"""A look at what waits in a socket of a frozen program: recvmsg(2) with options set for so long.

SO_PEEK_OFF looks behind the first message, others make the kernel tell more of it. They are set, and put
back, by a process that a kill of livecr does not end (native/ext/to_the_end.c). Called by kinds.
"""

from __future__ import annotations

import os
from struct import Struct

from livecr._native import ffi, lib
from livecr.errors import Failed
from livecr.kernel.sockopt import option_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["SO_PEEK_OFF", "Received", "peek"]

SO_PEEK_OFF = 42
_NR_RECVMSG, _NR_SETSOCKOPT = 47, 54
_MSG_PEEK, _MSG_DONTWAIT, _MSG_CMSG_CLOEXEC = 0x2, 0x40, 0x40000000
_PEEK = _MSG_PEEK | _MSG_DONTWAIT | _MSG_CMSG_CLOEXEC
#: struct msghdr: name and its length, vector and its length, control data and its length, flags.
_MSGHDR = Struct("=QI4xQQQQi4x")
_CMSGHDR, _IOVEC = Struct("=Qii"), Struct("=QQ")
_NAME_BYTES, _CONTROL_BYTES, _INT_BYTES = 128, 4096, 4
_NOWHERE = 8  # an address where nothing is


class Received:
    """``data``: as long as the message with MSG_TRUNC, whatever there was room for; ``control``: level, type
    and value of each."""

    __slots__ = ("control", "data", "flags", "name")

    def __init__(self, data: bytes, name: bytes, control: list[tuple[int, int, bytes]], flags: int) -> None:
        self.data = data
        self.name = name
        self.control = control
        self.flags = flags


def peek(
    fd: int, room: int, flags: int, options: list[tuple[int, int, int]], *, faults: bool = False
) -> Received | int:
    """One message of livecr's duplicate ``fd``, up to ``room`` bytes; -errno if there is none.

    ``options``: level, number and value of each that is an int; ``faults``: more than there is room for runs
    into an address where nothing is. Raises Failed if an option cannot be set.
    """
    name, data, control = (ffi.new("char[]", size) for size in (_NAME_BYTES, max(room, 1), _CONTROL_BYTES))
    parts = [(_at(data), room), (_NOWHERE, room)][: 1 + faults]
    vector = ffi.new("char[]", b"".join(_IOVEC.pack(*part) for part in parts))
    head = _MSGHDR.pack(_at(name), _NAME_BYTES, _at(vector), len(parts), _at(control), _CONTROL_BYTES, 0)
    header = ffi.new("char[]", head)
    result = _with_options(fd, options, (_NR_RECVMSG, fd, _at(header), _PEEK | flags))
    if result < 0:
        return result
    _, name_bytes, _, _, _, control_bytes, told = _MSGHDR.unpack(ffi.buffer(header)[: _MSGHDR.size])
    return Received(
        bytes(ffi.buffer(data)[: min(result, room)]).ljust(result, b"\0"),
        bytes(ffi.buffer(name)[:name_bytes]),
        _control(bytes(ffi.buffer(control)[:control_bytes])),
        told,
    )


def _with_options(fd: int, options: list[tuple[int, int, int]], made: tuple[int, ...]) -> int:
    """The result of a call with these set, which are put back in the opposite order."""
    before = [(level, number, option_of(fd, level, number)) for level, number, _ in reversed(options)]
    values = [ffi.new("int *", value) for _, _, value in [*options, *before]]
    rows: list[tuple[int, ...]] = [
        (_NR_SETSOCKOPT, fd, level, number, _at(value), _INT_BYTES)
        for (level, number, _), value in zip([*options, *before], values, strict=True)
    ]
    rows.insert(len(options), made)
    calls = ffi.new("struct lcr_call[]", len(rows))
    for call, (number, *args) in zip(calls, rows, strict=True):
        call.nr = number
        for i, arg in enumerate(args):
            call.args[i] = arg
    result = lib.lcr_calls_to_the_end(calls, len(rows))
    results = [int(call.result) for call in calls]
    answer = results.pop(len(options))
    failed = result or next((result for result in results if result < 0), 0)
    if failed:
        what = f"looking at what waits in it: {os.strerror(-failed)}"
        raise Failed(what, where=os.readlink(f"/proc/self/fd/{fd}"))
    return answer


def _control(data: bytes) -> list[tuple[int, int, bytes]]:
    found = []
    while len(data) >= _CMSGHDR.size:
        length, level, kind = _CMSGHDR.unpack_from(data)
        found.append((level, kind, data[_CMSGHDR.size : length]))
        data = data[length + 7 & ~7 :]
    return found


def _at(buffer: Any) -> int:
    return int(ffi.cast("uintptr_t", buffer))
