"""Transfers that are to move more than there is at once, and what is left of them.

A blocked write(2) to a pipe or a stream socket, or a recv(2) with MSG_WAITALL, that has moved something
answers an interruption with that count (fs/pipe.c, net/unix/af_unix.c), which a program without handlers need
not expect. So the rest is moved by a call made in the program's place, and what was moved before is added to
its result. For that the rest must lie in one piece of memory: a vector with more of it is left with the short
count, which the kernel gives too when a stopped process is continued. Used by classify and sockets.
"""

from __future__ import annotations

import os
import select
import stat

from livecr.errors import Failed
from livecr.image.record import Record
from livecr.kernel.pidfd import Duplicate
from livecr.kernel.sockopt import integer
from livecr.waits import catalog

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from livecr.waits.catalog import Call

    ReadMemory = Callable[[int, int], bytes]

__all__ = ["MSG_WAITALL", "Rest", "flags_of", "is_native", "rest"]

_SO_TYPE, _SO_RCVLOWAT, _SOCK_STREAM = 3, 18, 1
_MSG_DONTWAIT, MSG_WAITALL = 0x40, 0x100
#: Flags under which a transfer may be divided: MSG_WAITALL, MSG_NOSIGNAL, MSG_MORE, MSG_CMSG_CLOEXEC.
_DIVISIBLE = MSG_WAITALL | 0x4000 | 0x8000 | 0x40000000
_IOVEC_BYTES, _IOV_MAX = 16, 1024
_MSGHDR_BYTES = 40  # as far as msg_control: msg_name, msg_namelen, msg_iov, msg_iovlen, msg_control

_NR_WRITE, _NR_SENDTO, _NR_RECVFROM = 1, 44, 45
#: What moves the rest on a socket.
_MOVED_BY = {
    **dict.fromkeys(("write", "writev", "sendto", "sendmsg"), _NR_SENDTO),
    **dict.fromkeys(("read", "readv", "recvfrom", "recvmsg"), _NR_RECVFROM),
}
#: Which of them can be made on a pipe.
_ON_A_PIPE = ("write", "writev")


class Rest(Record):
    """What a call has yet to move.

    ``moved_bytes`` of the ``size_bytes`` at ``address`` have been moved; ``call`` with ``flags`` moves the
    others on descriptor ``fd``. ``enough_bytes``: it is repeated until so many are moved; 0: it waits for
    all that the program's call waits for by itself.
    """

    call: int
    fd: int
    address: int
    size_bytes: int
    flags: int
    moved_bytes: int
    enough_bytes: int


def is_native(call: Call) -> bool:
    """Whether it is a call of x86-64."""
    return catalog.CATALOG.get(call.number) is call


def flags_of(call: Call, arguments: list[int]) -> int:
    """MSG_* that the call was given."""
    return arguments[call.arguments.index("flags")] & 0xFFFFFFFF if "flags" in call.arguments else 0


def rest(
    pid: int, call: Call, arguments: list[int], moved_bytes: int, timed: bool, read_memory: ReadMemory
) -> Rest | None:
    """What is left of a call that a freeze has made to return ``moved_bytes`` (0 for EINTR).

    None if the whole call can be made again, if it would have returned just that anyway, or if no other call
    could move the rest. ``timed``: a timeout of the socket's own is to count for all of it.
    """
    flags = flags_of(call, arguments)
    fd = arguments[0] & 0xFFFFFFFF
    if not is_native(call) or call.name not in _MOVED_BY or flags & ~_DIVISIBLE:
        return None
    try:
        extent = _extent(call, arguments, moved_bytes, read_memory)
        with Duplicate(pid, fd) as ours:
            number = _moved_by(ours, call)
            if extent is None or not number or not os.get_blocking(ours) or (moved_bytes and _is_over(ours)):
                return None
            least_bytes = integer(ours, _SO_RCVLOWAT) if number == _NR_RECVFROM else 0
    except (OSError, Failed):
        return None
    address, size_bytes = extent
    enough_bytes = 0
    if number == _NR_RECVFROM:
        enough_bytes = size_bytes if flags & MSG_WAITALL else min(least_bytes, size_bytes)
        if enough_bytes <= 1 or moved_bytes >= enough_bytes:
            return None  # as soon as anything comes, it returns
        if timed:
            flags = flags & ~MSG_WAITALL | _MSG_DONTWAIT
        elif flags & MSG_WAITALL and moved_bytes:
            enough_bytes = 0
        else:
            return None
    elif not moved_bytes:
        return None
    return Rest(
        call=number,
        fd=fd,
        address=address,
        size_bytes=size_bytes,
        flags=flags,
        moved_bytes=moved_bytes,
        enough_bytes=enough_bytes,
    )


def _moved_by(fd: int, call: Call) -> int:
    """The call that moves the rest; 0 if none does."""
    mode = os.fstat(fd).st_mode
    if stat.S_ISFIFO(mode):
        return _NR_WRITE if call.name in _ON_A_PIPE else 0
    is_stream = stat.S_ISSOCK(mode) and integer(fd, _SO_TYPE) == _SOCK_STREAM
    return _MOVED_BY[call.name] if is_stream else 0


def _is_over(fd: int) -> bool:
    """Whether nobody is at the other end, so that the count is short for good."""
    looking = select.poll()
    looking.register(fd, select.POLLRDHUP)
    return bool(looking.poll(0))


def _extent(
    call: Call, arguments: list[int], moved_bytes: int, read_memory: ReadMemory
) -> tuple[int, int] | None:
    """Address and size of what is moved; None if there is also an address, if the rest is in pieces, or if no
    other call would tell the program all that its own does.

    Of a vector whose rest is in its last piece, as if all of it were in front of that.
    """
    if call.name in ("sendto", "recvfrom") and arguments[4]:
        return None
    if call.name not in ("readv", "writev", "sendmsg", "recvmsg"):
        return arguments[1], arguments[2]
    at, count = arguments[1], arguments[2]
    if call.name in ("sendmsg", "recvmsg"):
        name, name_bytes, at, count, control = _words(read_memory(arguments[1], _MSGHDR_BYTES))
        # recvmsg has told all but control messages when it moved something.
        if (control or not moved_bytes) if call.name == "recvmsg" else (name and name_bytes & 0xFFFFFFFF):
            return None
    if not 0 < count <= _IOV_MAX:
        return None
    words = _words(read_memory(at, count * _IOVEC_BYTES))
    before = sum(words[1:-1:2])
    return (words[-2] - before, before + words[-1]) if moved_bytes >= before else None


def _words(raw: bytes) -> list[int]:
    return [int.from_bytes(raw[at : at + 8], "little") for at in range(0, len(raw), 8)]
