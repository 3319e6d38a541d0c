"""Socket calls with a timeout that is the socket's own, set by SO_RCVTIMEO or SO_SNDTIMEO (socket(7)).

With one set, a freeze ends the call with EINTR instead of a restart code (net/core, sock_intr_errno), and
there is no argument that could tell it how much time is left. So poll(2) waits in its place, for as long as
that is, to the ns, and the program's own call is made when there is something to do. Where being ready does
not mean just what the call waits for, and in 32-bit programs, the socket's timeout is lent to it (see lent):
that counts in the kernel's ticks, as the program's own call does. Used by live, classify, deadlines.
"""

from __future__ import annotations

from livecr.errors import Failed, Obstacle
from livecr.kernel import procfs, sockopt
from livecr.kernel.pidfd import Duplicate
from livecr.waits import catalog
from livecr.waits.transfers import MSG_WAITALL, flags_of, is_native, rest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from livecr.waits.catalog import Call

    ReadMemory = Callable[[int, int], bytes]

__all__ = ["Polled", "obstacle", "polled"]

_SO_TYPE, _SO_RCVLOWAT, _SO_DOMAIN, _SO_PEEK_OFF = 3, 18, 39, 42
_AF_UNIX, _AF_INET, _AF_INET6 = 1, 2, 10
_SOCK_STREAM, _SOCK_DGRAM = 1, 2
_MSG_PEEK = 0x2
_POLLIN, _POLLOUT = 1, 4
_NS = 1_000_000_000

_EVENTS = {catalog.SO_RCVTIMEO: _POLLIN, catalog.SO_SNDTIMEO: _POLLOUT}

#: sizeof(struct mmsghdr); of struct msghdr, msg_namelen behind msg_name.
_MMSGHDR_BYTES = 64
_NAME_BYTES = 12
_VLEN_MAX = 1024  # UIO_MAXIOV
#: A 32-bit call has no other registers, and one is needed for the slot of a shim.
_REGISTERS = 6
#: Calls that can be made with their arguments in memory (lent.by_socketcall), or need no sixth.
_IN_MEMORY = ("sendto", "recvfrom")


class Polled:
    """What a call waits for: ``events`` (of poll) on descriptor ``fd``, for ``timeout_ns`` altogether.

    ``lent``: it waits for something else than being ready, so a timeout is lent to it. ``trouble``: why that
    cannot be, in words, or "".
    """

    __slots__ = ("events", "fd", "lent", "timeout_ns", "trouble")

    def __init__(self, fd: int, events: int, timeout_ns: int, lent: bool, trouble: str) -> None:
        self.fd = fd
        self.events = events
        self.timeout_ns = timeout_ns
        self.lent = lent
        self.trouble = trouble


def polled(pid: int, call: Call, arguments: list[int], read_memory: ReadMemory) -> Polled | None:
    """What a blocked call waits for; None if there is no socket, or no timeout set on it.

    ``read_memory(address, size)`` raises Failed where nothing is mapped.
    """
    for index, option in _sides(call):
        try:
            fd = _descriptor(call, arguments, index, read_memory)
            if not procfs.link(pid, f"fd/{fd}").startswith("socket:"):
                continue
            with Duplicate(pid, fd) as ours:
                timeout_ns = _timeout_ns(ours, option)
                if timeout_ns:
                    lent = _is_lent(pid, ours, call, arguments, option, read_memory)
                    return Polled(fd, _EVENTS[option], timeout_ns, lent, _trouble(ours, call))
        except (OSError, Failed):
            continue
    return None


def _descriptor(call: Call, arguments: list[int], index: int, read_memory: ReadMemory) -> int:
    """Argument ``index``; of a socketcall the first of those that it has in memory."""
    if call.part:
        return int.from_bytes(read_memory(arguments[1], 4), "little")
    return arguments[index] & 0xFFFFFFFF


def obstacle(where: str, call: Call, found: Polled) -> Obstacle:
    """That it cannot be made again."""
    name = "SO_RCVTIMEO" if found.events == _POLLIN else "SO_SNDTIMEO"
    text = f"it waits in {call.name} on fd {found.fd}, a socket with {name} set, {found.trouble}"
    return Obstacle(where, text, "a freeze would end this call with EINTR: try again while no task is in it")


def _sides(call: Call) -> list[tuple[int, int]]:
    """The arguments that are descriptors, and the option that counts for each."""
    if not call.socket_option:
        return []
    sides = [(0, call.socket_option)]
    if call.name == "splice":
        sides.append((2, catalog.SO_SNDTIMEO))
    return sides


def _timeout_ns(fd: int, option: int) -> int:
    timeval = sockopt.option(fd, option, 16)
    return int.from_bytes(timeval[:8], "little") * _NS + int.from_bytes(timeval[8:], "little") * 1000


def _trouble(fd: int, call: Call) -> str:
    if is_native(call):
        return ""
    if len(call.arguments) == _REGISTERS and call.name not in _IN_MEMORY:
        return "in a 32-bit program, with a register for each of its six arguments"
    if call.name in ("connect", "socketcall(connect)") and sockopt.integer(fd, _SO_DOMAIN) != _AF_UNIX:
        return "in a 32-bit program"  # made again, it would say EALREADY when its time is over (af_inet.c)
    return ""


def _is_lent(
    pid: int, fd: int, call: Call, arguments: list[int], option: int, read_memory: ReadMemory
) -> bool:
    if not is_native(call):
        return True
    domain, kind = sockopt.integer(fd, _SO_DOMAIN), sockopt.integer(fd, _SO_TYPE)
    flags = flags_of(call, arguments)
    receives = option == catalog.SO_RCVTIMEO and not call.name.startswith("accept")
    if domain not in (_AF_UNIX, _AF_INET, _AF_INET6):
        return True
    if domain == _AF_UNIX and call.name == "connect":
        return True  # poll does not tell when the listener has room (unix_wait_for_peer)
    if domain == _AF_UNIX and kind == _SOCK_DGRAM and option == catalog.SO_SNDTIMEO:
        return _names_receiver(call, arguments, read_memory)  # nor when the receiver has (unix_dgram_poll)
    if receives and flags & _MSG_PEEK and sockopt.integer(fd, _SO_PEEK_OFF) >= 0:
        return True
    if receives and kind == _SOCK_STREAM:
        waits_for_more = flags & MSG_WAITALL or sockopt.integer(fd, _SO_RCVLOWAT) > 1
        return bool(waits_for_more) and not rest(pid, call, arguments, 0, True, read_memory)
    return False


def _names_receiver(call: Call, arguments: list[int], read_memory: ReadMemory) -> bool:
    """Whether a message goes to an address that the call gives."""
    if call.name == "sendto":
        return arguments[4] != 0
    if call.name not in ("sendmsg", "sendmmsg"):
        return False
    count = min(arguments[2] & 0xFFFFFFFF, _VLEN_MAX) if call.name == "sendmmsg" else 1
    try:
        headers = [read_memory(arguments[1] + i * _MMSGHDR_BYTES, _NAME_BYTES) for i in range(count)]
    except Failed:
        return True
    return any(header[:8].strip(b"\0") and header[8:].strip(b"\0") for header in headers)
