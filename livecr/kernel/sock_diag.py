"""Every AF_UNIX socket of this network namespace, as sock_diag(7) tells it: names, peers, states, queues.

The link of /proc/PID/fd gives only an inode number; which socket is connected to which is told here and
nowhere else. Called by the kinds of socket.
"""

from __future__ import annotations

import sys

from livecr.errors import Refused

__all__ = ["CONNECTED", "LISTENING", "UNCONNECTED", "UnixSocket", "unix_sockets"]

_NETLINK_SOCK_DIAG, _AF_NETLINK, _SOCK_RAW, _SOCK_CLOEXEC, _AF_UNIX = 4, 16, 3, 0o2000000, 1
_SOCK_DIAG_BY_FAMILY, _NLMSG_ERROR, _NLMSG_DONE = 20, 2, 3
_NLM_F_REQUEST, _NLM_F_DUMP = 1, 0x300
# UDIAG_SHOW_* and UNIX_DIAG_* of <linux/unix_diag.h>.
_SHOW = 0x01 | 0x02 | 0x04 | 0x08 | 0x10  # name, its inode, peer, who waits to be accepted, queue lengths
_NAME, _VFS, _PEER, _ICONS, _RQLEN, _SHUTDOWN = 0, 1, 2, 3, 4, 6
_REQUEST_BYTES, _ANSWER_BYTES, _HEADER_BYTES = 24, 16, 16
_ALL_STATES = 0xFFFFFFFF

#: What the kernel keeps in sk_state; AF_UNIX borrows TCP's numbers (net/unix/af_unix.c).
CONNECTED, UNCONNECTED, LISTENING = 1, 7, 10


class UnixSocket:
    """One socket. ``peer``: the inode of the socket it is connected to, 0 if that is closed, None if none.

    ``name``: sun_path, b"" if unbound; an abstract one begins with a zero byte. ``file``: of a bound path,
    32 bits of the inode number, and the device as the kernel encodes it. ``queue``, ``limit``: of a listening
    socket, connections that wait and its backlog; of others, bytes to read and send buffer in use.
    ``shutdown``: 1 for receiving, 2 for sending. ``waiting``: of a listening socket, the inodes of those that
    wait to be accepted, in their order; 0 of one that is closed. A socket that waits has a ``peer`` of 0.
    """

    __slots__ = ("file", "inode", "limit", "name", "peer", "queue", "shutdown", "state", "type", "waiting")

    def __init__(self, inode: int, type: int, state: int) -> None:
        self.inode = inode
        self.type = type  # SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET
        self.state = state
        self.peer: int | None = None
        self.name = b""
        self.file: tuple[int, int] | None = None
        self.queue = self.limit = self.shutdown = 0
        self.waiting: list[int] = []


def _number(data: bytes, at: int = 0, size: int = 4) -> int:
    return int.from_bytes(data[at : at + size], sys.byteorder)


def unix_sockets() -> dict[int, UnixSocket]:
    """All of them, by inode number. Raises Refused where the kernel does not tell (CONFIG_UNIX_DIAG)."""
    import _socket  # not socket: that imports enum and selectors

    asked = b"".join(
        value.to_bytes(size, sys.byteorder)
        for value, size in (
            # struct nlmsghdr
            (_HEADER_BYTES + _REQUEST_BYTES, 4),
            (_SOCK_DIAG_BY_FAMILY, 2),
            (_NLM_F_REQUEST | _NLM_F_DUMP, 2),
            (0, 8),
            # struct unix_diag_req: family, protocol, padding, states, inode, what to show, cookie
            *((_AF_UNIX, 1), (0, 3), (_ALL_STATES, 4), (0, 4), (_SHOW, 4), (0, 8)),
        )
    )
    found: dict[int, UnixSocket] = {}
    try:
        netlink = _socket.socket(_AF_NETLINK, _SOCK_RAW | _SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)
        try:
            netlink.send(asked)
            while _take(netlink.recv(1 << 16), found):
                pass
        finally:
            netlink.close()
    except OSError as error:
        raise Refused(
            f"sock_diag: {error.strerror}",
            way_out="a kernel with CONFIG_UNIX_DIAG is needed (modprobe unix_diag)",
        ) from None
    return found


def _take(datagram: bytes, found: dict[int, UnixSocket]) -> bool:
    """The messages of one datagram; whether more are to come."""
    while len(datagram) >= _HEADER_BYTES:
        length, kind = _number(datagram), _number(datagram, 4, 2)
        if kind == _NLMSG_DONE:
            return False
        if kind == _NLMSG_ERROR:
            number = (1 << 32) - _number(datagram, _HEADER_BYTES)
            raise OSError(number, f"error {number}")
        if kind == _SOCK_DIAG_BY_FAMILY:
            one = _socket_of(datagram[_HEADER_BYTES:length])
            found[one.inode] = one
        datagram = datagram[length + 3 & ~3 :]
    return True


def _socket_of(message: bytes) -> UnixSocket:
    """struct unix_diag_msg and the attributes behind it."""
    one = UnixSocket(_number(message, 4), message[1], message[2])
    message = message[_ANSWER_BYTES:]
    while len(message) >= 4:
        length, kind = _number(message, 0, 2), _number(message, 2, 2)
        value = message[4:length]
        if kind == _NAME:
            # the kernel counts the zero byte behind a path, which is no part of it
            one.name = value if value.startswith(b"\0") else value.rstrip(b"\0")
        elif kind == _VFS:
            one.file = (_number(value), _number(value, 4))
        elif kind == _PEER:
            one.peer = _number(value)
        elif kind == _ICONS:
            one.waiting = [_number(value, at) for at in range(0, len(value), 4)]
        elif kind == _RQLEN:
            one.queue, one.limit = _number(value), _number(value, 4)
        elif kind == _SHUTDOWN:
            one.shutdown = value[0]
        message = message[length + 3 & ~3 :]
    return one
