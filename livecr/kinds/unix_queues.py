"""What waits in the receive queue of a unix socket: message by message, copied without being consumed.

Relies on MSG_PEEK; on SO_PEEK_OFF for messages behind the first; and on SO_PASSCRED, without which the kernel
does not tell which messages have credentials (kernel/recvmsg). Called by unix_in_flight.
"""

from __future__ import annotations

import os
from struct import Struct

from livecr._native import ffi, lib
from livecr.errors import Failed, Refused
from livecr.image.record import Record
from livecr.kernel import recvmsg

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Credentials", "Message", "Peeked", "buffer_bytes", "peek"]

_NR_RECVFROM = 45
_SOL_SOCKET, _SO_PASSCRED = 1, 16
_SOCK_STREAM = 1
_FIONREAD, _SIOCOUTQ = 0x541B, 0x5411
_AF_UNIX, _SOCK_CLOEXEC, _SO_SNDBUFFORCE = 1, 0o2000000, 32
_MSG_OOB, _MSG_PEEK, _MSG_CTRUNC, _MSG_TRUNC, _MSG_DONTWAIT = 0x1, 0x2, 0x8, 0x20, 0x40
_OUT_OF_BAND = _MSG_OOB | _MSG_PEEK | _MSG_DONTWAIT
_FIRST_BYTES = 1 << 16
_LONGEST_BYTES = 1 << 30
_EFAULT, _EINVAL, _EAGAIN, _ENOTCONN = -14, -22, -11, -107
_UCRED, _FAMILY_BYTES = Struct("=iII"), 2
# <linux/socket.h>. Of a message without credentials a pid of 0 and these ids are told.
_SCM_RIGHTS, _SCM_CREDENTIALS, _SCM_SECURITY, _SCM_PIDFD = 1, 2, 3, 4
_NO_ONE = (0, 65534, 65534)
# What a message can have that cannot be given to another one.
_LOST = {
    _SCM_SECURITY: "with the security label of its sender (SO_PASSSEC)",
    29: "with the time when it came (SO_TIMESTAMP)",
    35: "with the time when it came (SO_TIMESTAMPNS)",
    63: "with the time when it came (SO_TIMESTAMP)",
    64: "with the time when it came (SO_TIMESTAMPNS)",
}
_LATER = "try again when the program has read it"


class Credentials(Record):
    """SCM_CREDENTIALS, as livecr's namespaces see them."""

    pid: int
    uid: int
    gid: int


class Message(Record):
    """A message, or a part of a stream. ``source``: the name of the sender's socket or b"".

    ``descriptors``: what comes with its first byte, as places in the list of descriptions.
    """

    data: bytes
    source: bytes
    credentials: Credentials | None
    descriptors: list[int]


class Peeked:
    """A message while the program is frozen. ``fds``: livecr's own descriptors of what comes with it."""

    __slots__ = ("credentials", "data", "fds", "source")

    def __init__(
        self, data: bytes, source: bytes, credentials: tuple[int, int, int] | None, fds: list[int]
    ) -> None:
        self.data = data
        self.source = source
        self.credentials = credentials
        self.fds = fds

    def close(self) -> None:
        """Close ``fds``."""
        for fd in self.fds:
            os.close(fd)
        self.fds = []


def peek(fd: int, type: int, at_end: bool, where: str) -> list[Peeked]:
    """The whole queue of livecr's duplicate ``fd``, of a frozen process.

    ``at_end``: the socket is shut down for receiving. No error may wait on a socket that keeps messages:
    reading would take it. Raises Refused for what cannot be kept.
    """
    found: list[Peeked] = []
    queue = _Queue(fd, where)
    try:
        if type == _SOCK_STREAM:
            queue.stream(found)
        else:
            queue.messages(found, at_end)
    except BaseException:
        for one in found:
            one.close()
        raise
    return found


class _Queue:
    """One socket's."""

    def __init__(self, fd: int, where: str) -> None:
        self._fd = fd
        self._where = where

    def stream(self, found: list[Peeked]) -> None:
        """A read ends behind a message with descriptors, before other credentials, and at urgent data."""
        import fcntl

        # Never behind the end, where a read would take an error that waits.
        total = int.from_bytes(fcntl.ioctl(self._fd, _FIONREAD, bytes(4)), "little")
        offset = 0
        urgent = lib.lcr_syscall(_NR_RECVFROM, self._fd, _at(ffi.new("char *")), 1, _OUT_OF_BAND, 0, 0) >= 0
        while offset < total:
            one = None if urgent else self._peek(offset, total - offset, 0)
            if one is None:
                raise self._refused("urgent data")
            last = found[-1] if found else None
            found.append(one)
            one.source, length = b"", len(one.data)
            if not length or (last and not last.fds and last.credentials == one.credentials):
                raise self._refused("urgent data")
            if one.fds:
                self._split(found, offset)
            offset += length

    def _split(self, found: list[Peeked], offset: int) -> None:
        """The bytes before the one that the descriptors of the last piece come with are another piece."""
        piece = found[-1]
        # They are in the last of the kernel's buffers that were read. If that does not fit, a fault ends the
        # read before it. (With less room a look at the bytes before it would tell of the descriptors too.)
        first = self._peek(offset, len(piece.data) - 1, 0, faults=True) if len(piece.data) > 1 else None
        if first is not None:
            first.source = b""
            found.insert(len(found) - 1, first)
            piece.data = piece.data[len(first.data) :]

    def messages(self, found: list[Peeked], at_end: bool) -> None:
        """Datagrams or packets."""
        offset, room = 0, _FIRST_BYTES
        while True:
            one = self._peek(offset, room, _MSG_TRUNC)
            if one is None:
                return
            if len(one.data) > room:
                one.close()
                room = len(one.data)
                if room > _LONGEST_BYTES:
                    raise self._refused("a message of more than a gigabyte")
                continue
            if not one.data and at_end and not one.fds and not one.credentials:
                return  # that is how a sequenced-packet socket says end of file
            found.append(one)
            offset += len(one.data)

    def _peek(self, offset: int, room: int, flags: int, *, faults: bool = False) -> Peeked | None:
        """What is read from ``offset`` on; None if there is nothing. See kernel/recvmsg.

        With ``faults`` a buffer of the kernel's that does not fit as a whole is not read at all.
        """
        options = [(_SOL_SOCKET, _SO_PASSCRED, 1), (_SOL_SOCKET, recvmsg.SO_PEEK_OFF, offset)]
        got = recvmsg.peek(self._fd, room, flags, options, faults=faults)
        if isinstance(got, int):
            if got in (_EAGAIN, _ENOTCONN, _EINVAL, _EFAULT):
                return None
            raise Failed(f"recvmsg: {os.strerror(-got)}", where=self._where)
        one = Peeked(got.data, _source(got.name), None, [])
        lost = ""
        for _, kind, value in got.control:
            lost = self._take(kind, value, one) or lost
        if got.flags & _MSG_CTRUNC:
            lost = "more descriptors than livecr may have open (ulimit -n)"
        if lost:
            one.close()
            raise self._refused(lost)
        return one

    def _take(self, kind: int, value: bytes, one: Peeked) -> str:
        """What comes besides the bytes. The words for what cannot be kept, or ""."""
        if kind == _SCM_RIGHTS:
            one.fds += [int.from_bytes(value[at : at + 4], "little") for at in range(0, len(value), 4)]
        elif kind == _SCM_PIDFD:
            os.close(int.from_bytes(value, "little"))  # made of the credentials whenever it is read
        elif kind == _SCM_CREDENTIALS:
            told = _UCRED.unpack(value)
            one.credentials = None if told == _NO_ONE else told
            if told[0] == 0 and told != _NO_ONE:
                return "a message from a process of another PID namespace"
        else:
            return f"a message {_LOST.get(kind, f'with control data of type {kind}')}"
        return ""

    def _refused(self, what: str) -> Refused:
        return Refused(f"it holds {what}", where=self._where, way_out=_LATER)


def _at(buffer: Any) -> int:
    return int(ffi.cast("uintptr_t", buffer))


def _source(name: bytes) -> bytes:
    """sun_path of struct sockaddr_un; a path without the zero byte behind it."""
    path = name[_FAMILY_BYTES:]
    return path if path.startswith(b"\0") else path.partition(b"\0")[0]


def buffer_bytes(type: int, messages: list[Peeked]) -> int:
    """How much of its sender's buffer space these messages take (SIOCOUTQ); -1 if it cannot be tried.

    An empty message that was peeked once is skipped by SO_PEEK_OFF ever after (net/core/datagram.c); it shows
    only by the space that it takes.
    """
    import _socket
    import fcntl

    one, other = _socket.socketpair(_AF_UNIX, type | _SOCK_CLOEXEC)
    try:
        one.setsockopt(_SOL_SOCKET, _SO_SNDBUFFORCE, _LONGEST_BYTES)
        for message in messages:
            one.send(message.data, _MSG_DONTWAIT)
        return int.from_bytes(fcntl.ioctl(one.fileno(), _SIOCOUTQ, bytes(4)), "little")
    except OSError:
        return -1
    finally:
        one.close()
        other.close()
