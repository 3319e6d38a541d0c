"""What waits in the receive queue of a unix socket: message by message, copied without being consumed.

Relies on MSG_PEEK, and for messages behind the first on SO_PEEK_OFF, which is put back. Called by
sockets_unix.
"""

from __future__ import annotations

import os

from livecr.errors import Refused
from livecr.image.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket

__all__ = ["Message", "buffer_bytes", "peek"]

_SOL_SOCKET, _SO_PEEK_OFF, _PEEK_OFF_NONE = 1, 42, -1
_SOCK_STREAM = 1
_FIONREAD, _SIOCOUTQ = 0x541B, 0x5411
_AF_UNIX, _SOCK_CLOEXEC, _SO_SNDBUFFORCE = 1, 0o2000000, 32
_MSG_PEEK, _MSG_CTRUNC, _MSG_TRUNC, _MSG_DONTWAIT = 0x2, 0x8, 0x20, 0x40
_FIRST_BYTES = 1 << 16
_LONGEST_BYTES = 1 << 30


class Message(Record):
    """One datagram, or all the bytes of a stream. ``source``: the name of the sender's socket or b""."""

    data: bytes
    source: bytes


def peek(sock: socket, type: int, at_end: bool, where: str) -> list[Message]:
    """The whole queue, of a frozen process. ``at_end``: the socket is shut down for receiving.

    No error may wait on a socket that keeps messages: reading would take it. Raises Refused for a message
    that carries more than bytes.
    """
    before = sock.getsockopt(_SOL_SOCKET, _SO_PEEK_OFF)
    try:
        if before != _PEEK_OFF_NONE:
            sock.setsockopt(_SOL_SOCKET, _SO_PEEK_OFF, _PEEK_OFF_NONE)
        if type == _SOCK_STREAM:
            return _peek_stream(sock, where)
        return _peek_messages(sock, at_end, where)
    finally:
        if sock.getsockopt(_SOL_SOCKET, _SO_PEEK_OFF) != before:
            sock.setsockopt(_SOL_SOCKET, _SO_PEEK_OFF, before)


def _peek_stream(sock: socket, where: str) -> list[Message]:
    import fcntl

    length = int.from_bytes(fcntl.ioctl(sock.fileno(), _FIONREAD, bytes(4)), "little")
    if not length:
        return []  # and a read of nothing would take an error that waits
    data, _, flags, _ = sock.recvmsg(length, 0, _MSG_PEEK | _MSG_DONTWAIT)
    # A read of a stream ends at a message with descriptors, and at urgent data.
    if flags & _MSG_CTRUNC or len(data) != length:
        raise _refused(where)
    return [Message(data=data, source=b"")]


def _peek_messages(sock: socket, at_end: bool, where: str) -> list[Message]:
    found: list[Message] = []
    offset, room = 0, _FIRST_BYTES
    while True:
        try:
            if found:
                sock.setsockopt(_SOL_SOCKET, _SO_PEEK_OFF, offset)
            data, _, flags, address = sock.recvmsg(room, 0, _MSG_PEEK | _MSG_DONTWAIT)
        except OSError:
            return found
        if not data and at_end:
            return found  # that is how a sequenced-packet socket says end of file
        if flags & _MSG_CTRUNC:
            raise _refused(where)
        if flags & _MSG_TRUNC:
            room *= 8
            if room > _LONGEST_BYTES:
                raise Refused("it holds a message of more than a gigabyte", where=where)
            if not found:
                sock.setsockopt(_SOL_SOCKET, _SO_PEEK_OFF, _PEEK_OFF_NONE)
            continue
        source = os.fsencode(address) if address else b""
        found.append(Message(data=data, source=source))
        offset += len(data)


def buffer_bytes(type: int, messages: list[Message]) -> int:
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


def _refused(where: str) -> Refused:
    return Refused(
        "it holds a message with descriptors, credentials or urgent data",
        where=where,
        way_out="try again when the program has read it",
    )
