"""Pseudoterminals as the kernel has them: numbers, ioctls, and what waits in both directions.

What waits in a line discipline cannot be read without taking it out, so the BPF file iterator of
native/bpf/pty.bpf.c copies it from the kernel's memory. Relies on Linux 6.1, the kernel's own BTF, CAP_BPF
with CAP_PERFMON. Called by kinds/ttys and kinds/ttys_made.
"""

from __future__ import annotations

import fcntl
import os
import time
from struct import Struct

from livecr._native import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Pty", "Side", "Unavailable", "ask", "number", "read", "tell"]

OBJECT = os.path.join(os.path.dirname(os.path.dirname(__file__)), "native", "pty.bpf.o")
PTMX = (5, 2)
BUFFER_BYTES = 4096  # include/linux/tty.h, N_TTY_BUF_SIZE
#: asm-generic/ioctls.h.
TCGETS2, TCSETS2 = 0x802C542A, 0x402C542B
TIOCEXCL, TIOCSCTTY, TIOCSPGRP, TIOCSTI = 0x540C, 0x540E, 0x5410, 0x5412
TIOCGWINSZ, TIOCSWINSZ, TIOCPKT, TIOCNOTTY = 0x5413, 0x5414, 0x5420, 0x5422
TIOCSPTLCK, TIOCGPTN, TIOCGDEV = 0x40045431, 0x80045430, 0x80045432
TIOCGLCKTRMIOS, TIOCSLCKTRMIOS = 0x5456, 0x5457
TIOCGEXCL, TIOCGPTPEER = 0x80045440, 0x5441
TERMIOS2_BYTES, TERMIOS_BYTES, WINSIZE_BYTES = 44, 36, 8

# struct side and struct pty_report of native/bpf/pty.bpf.c.
_SIDE = Struct("=4Q 10B H I 64Q 4096s")
_HEAD = Struct("=Ii")
_FLIP_BYTES = 15  # its place in struct side
_ROOM_BYTES = 1 << 20
_ENOSPC = 28
_SETTLES_S, _PAUSE_S = 0.2, 0.002


# The program, once loaded, for as long as livecr runs: it is needed before a freeze and in it.
_loaded = -1


class Unavailable(Exception):
    """The iterator cannot be used here; the text says why."""


class Side:
    """One side of a pair. ``flip``: what its line discipline has not looked at yet.

    ``pieces``: what has been looked at and not been read, as (bytes, whether the last one ends a line); the
    last piece may be a line that is not ended. ``stopped``: "", or by what: "flow" (TCOOFF) or "character"
    (VSTOP).
    """

    __slots__ = (
        *("discipline", "exclusive", "flip", "is_literal_next", "is_locked", "is_settled", "is_whole"),
        *("other_closed", "packet_mode", "packet_status", "pieces", "stopped"),
    )

    if TYPE_CHECKING:
        discipline: int
        exclusive: bool
        flip: bytes
        is_literal_next: bool
        is_locked: bool
        is_settled: bool
        is_whole: bool
        other_closed: bool
        packet_mode: bool
        packet_status: int
        pieces: list[tuple[bytes, bool]]
        stopped: str


class Pty:
    """One pair, as process ``pid`` has its master open at descriptor ``fd``."""

    __slots__ = ("fd", "master", "number", "pid", "slave")

    def __init__(self, pid: int, fd: int, number: int, master: Side, slave: Side) -> None:
        self.pid = pid
        self.fd = fd
        self.number = number
        self.master = master
        self.slave = slave


def read(pids: list[int]) -> list[Pty]:
    """Every pair of which one of ``pids`` has the master open. Raises Unavailable.

    Work of the kernel's that is under way is waited for, for a moment; of running processes there may
    always be some (is_settled).
    """
    global _loaded
    if _loaded < 0:
        _loaded = _load()
    give_up = time.monotonic() + _SETTLES_S
    while True:
        found = [pty for pid in pids for pty in _read(_loaded, pid)]
        is_settled = all(one.master.is_settled and one.slave.is_settled for one in found)
        if is_settled or time.monotonic() > give_up:
            return found
        time.sleep(_PAUSE_S)


def _load() -> int:
    from livecr.kernel.bpf import switched_off

    if switched_off("bpf"):
        raise Unavailable("switched off by LIVECR_WITHOUT")
    program = ffi.new("int[1]")
    result = lib.lcr_bpf_open_all(OBJECT.encode(), program, 1)
    if result < 0:
        said = ffi.string(lib.lcr_bpf_message()).decode(errors="replace")
        raise Unavailable(f"{os.strerror(-result)}{f' ({said})' if said else ''}")
    return int(program[0])


def _read(program: int, pid: int) -> list[Pty]:
    room = _ROOM_BYTES
    while True:
        buffer = ffi.new("char[]", room)
        got = lib.lcr_bpf_read(program, pid, buffer, room)
        if got != -_ENOSPC:
            break
        room *= 4
    if got < 0:
        raise Unavailable(f"reading the iterator: {os.strerror(-got)}")
    return _parse(pid, bytes(ffi.buffer(buffer, got)))


def _parse(pid: int, told: bytes) -> list[Pty]:
    found, at = [], 0
    while at + _HEAD.size + 2 * _SIDE.size <= len(told):
        fd, number_ = _HEAD.unpack_from(told, at)
        at += _HEAD.size
        rows = [_SIDE.unpack_from(told, at + n * _SIDE.size) for n in (0, 1)]
        at += 2 * _SIDE.size
        sides = []
        for row in rows:
            flip = told[at : at + row[_FLIP_BYTES]]
            at += row[_FLIP_BYTES]
            sides.append(_side(row, flip))
        found.append(Pty(pid, fd, number_, *sides))
    return found


def _side(row: tuple[Any, ...], flip: bytes) -> Side:
    read_head, canon_head, read_tail, echoes = row[:4]
    stopped, by_ioctl, packet_mode, packet_status = row[4:8]
    other_closed, exclusive, is_locked, literal_next, erasing, whole, discipline = row[8:15]
    side = Side()
    side.exclusive, side.other_closed, side.is_locked = bool(exclusive), bool(other_closed), bool(is_locked)
    side.stopped = "" if not stopped else "flow" if by_ioctl else "character"
    side.packet_mode, side.packet_status = bool(packet_mode), packet_status
    side.is_literal_next, side.discipline, side.is_whole = bool(literal_next), discipline, bool(whole)
    side.flip = flip
    side.pieces = _pieces(row[-1], row[16:80], read_tail, canon_head, read_head)
    is_full = read_head - read_tail >= BUFFER_BYTES - 1
    side.is_settled = not echoes and not erasing and (not flip or is_full)
    return side


def _pieces(
    ring: bytes, flags: tuple[int, ...], tail: int, canon_head: int, head: int
) -> list[tuple[bytes, bool]]:
    """Cut at the ends of lines (drivers/tty/n_tty.c, read_flags), which are told up to ``canon_head``."""
    found: list[tuple[bytes, bool]] = []
    start = tail
    for at in range(tail, min(head, tail + BUFFER_BYTES)):
        place = at % BUFFER_BYTES
        if at < canon_head and flags[place // 64] >> place % 64 & 1:
            found.append((_cut(ring, start, at + 1), True))
            start = at + 1
    if start < head:
        found.append((_cut(ring, start, min(head, start + BUFFER_BYTES)), False))
    return found


def _cut(ring: bytes, start: int, end: int) -> bytes:
    return bytes(ring[at % BUFFER_BYTES] for at in range(start, end))


def ask(fd: int, request: int, size: int) -> bytes:
    """What an ioctl of a terminal writes. Raises OSError."""
    return fcntl.ioctl(fd, request, bytes(size))


def tell(fd: int, request: int, value: bytes) -> None:
    """An ioctl of a terminal that reads. Raises OSError."""
    fcntl.ioctl(fd, request, value)


def number(fd: int) -> tuple[int, int]:
    """Major and minor number of the terminal that ``fd`` is: /dev/tty and masters stand for another."""
    encoded = int.from_bytes(ask(fd, TIOCGDEV, 4), "little")
    return os.major(encoded), os.minor(encoded)
