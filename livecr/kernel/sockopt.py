"""What getsockopt(2) tells of a socket, without Python's socket, or not to that: filters, multicast groups.

No call lists the groups of a socket, so it is asked for each that /proc/net/igmp and igmp6 list:
MCAST_MSFILTER (ip(7)) tells of one group whether this socket has joined it, and from which sources. Called by
the kinds of socket, and by waits.
"""

from __future__ import annotations

import os

from livecr._native import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket

__all__ = [
    *("Group", "attach_filter", "filter_of", "groups", "integer", "join"),
    *("option", "option_of", "set_option"),
]

_NR_SETSOCKOPT, _NR_GETSOCKOPT = 54, 55
_SOL_SOCKET, _SO_ATTACH_FILTER, _SO_GET_FILTER = 1, 26, 26
_INSTRUCTION_BYTES = 8  # struct sock_filter
_MCAST_JOIN_GROUP, _MCAST_MSFILTER = 42, 48
_ADDRESS_BYTES = 128  # struct sockaddr_storage
_REQUEST_BYTES = 8 + _ADDRESS_BYTES  # struct group_req: interface, group
_HEAD_BYTES = _REQUEST_BYTES + 8  # struct group_filter: besides them its mode and the count of sources
_MODE_EXCLUDE = 0
_SOURCES_MAX = 1024
_AF_INET, _AF_INET6 = 2, 10
_LEVELS = {_AF_INET: 0, _AF_INET6: 41}  # SOL_IP, SOL_IPV6
_PORT_BYTES, _PORT_AND_FLOW_BYTES = 2, 6  # between the family and the address


def _address(buffer: object) -> int:
    return int(ffi.cast("uintptr_t", ffi.from_buffer(buffer)))


def option(fd: int, name: int, size: int) -> bytes:
    """``size`` bytes of option ``name`` of SOL_SOCKET; zeros where the socket does not know it."""
    value, length = ffi.new("char[]", size), ffi.new("int *", size)
    at = (int(ffi.cast("uintptr_t", value)), int(ffi.cast("uintptr_t", length)))
    lib.lcr_syscall(_NR_GETSOCKOPT, fd, _SOL_SOCKET, name, *at, 0)
    return bytes(ffi.buffer(value))


def integer(fd: int, name: int) -> int:
    """An option of SOL_SOCKET that is an int."""
    return int.from_bytes(option(fd, name, 4), "little", signed=True)


def option_of(fd: int, level: int, name: int) -> int:
    """An option of any level that is an int; 0 where the socket does not know it."""
    value = ffi.new("int *")
    _get(fd, level, name, int(ffi.cast("uintptr_t", value)), 4)
    return int(value[0])


def _get(fd: int, level: int, option: int, at: int, room: int) -> tuple[int, int]:
    """The length that is told back, or -errno; and 0."""
    size = ffi.new("int *", room)
    where = int(ffi.cast("uintptr_t", size))
    return int(lib.lcr_syscall(_NR_GETSOCKOPT, fd, level, option, at, where, 0)), int(size[0])


def _set(fd: int, level: int, option: int, value: bytes) -> None:
    result = lib.lcr_syscall(_NR_SETSOCKOPT, fd, level, option, _address(value), len(value), 0)
    if result < 0:
        raise OSError(-result, os.strerror(-result))


def set_option(fd: int, name: int, value: bytes) -> None:
    """An option of SOL_SOCKET. Raises OSError."""
    _set(fd, _SOL_SOCKET, name, value)


# -- packet filters ----------------------------------------------------------------------------------------


def filter_of(sock: socket) -> bytes | None:
    """The instructions of its packet filter (SO_ATTACH_FILTER), b"" if it has none.

    None if they are not told, as those of eBPF (EACCES). A length of 0 asks how many there are.
    """
    result, count = _get(sock.fileno(), _SOL_SOCKET, _SO_GET_FILTER, 0, 0)
    if result < 0:
        return None
    code = bytearray(count * _INSTRUCTION_BYTES)
    if count and _get(sock.fileno(), _SOL_SOCKET, _SO_GET_FILTER, _address(code), count)[0] < 0:
        return None
    return bytes(code)


def attach_filter(sock: socket, code: bytes) -> None:
    """SO_ATTACH_FILTER. Raises OSError."""
    count = len(code) // _INSTRUCTION_BYTES
    program = count.to_bytes(8, "little") + _address(code).to_bytes(8, "little")  # struct sock_fprog
    _set(sock.fileno(), _SOL_SOCKET, _SO_ATTACH_FILTER, program)


# -- multicast groups --------------------------------------------------------------------------------------


class Group:
    """A membership. ``family``: AF_INET or AF_INET6; ``exclude``: it hears all sources but ``sources``."""

    __slots__ = ("address", "exclude", "family", "interface", "sources")

    def __init__(
        self, family: int, interface: int, address: bytes, exclude: bool, sources: list[bytes]
    ) -> None:
        self.family = family
        self.interface = interface
        self.address = address
        self.exclude = exclude
        self.sources = sources


def groups(sock: socket) -> list[Group]:
    """All that it is a member of."""
    asked = [(_AF_INET, *one) for one in _groups4()]
    if sock.family == _AF_INET6:
        asked += [(_AF_INET6, *one) for one in _groups6()]
    found = [_membership(sock.fileno(), *one) for one in dict.fromkeys(asked)]
    return [group for group in found if group is not None]


def join(sock: socket, group: Group) -> None:
    """Become a member as it was. Raises OSError."""
    level = _LEVELS[group.family]
    request = _request(group.family, group.interface, group.address)
    _set(sock.fileno(), level, _MCAST_JOIN_GROUP, request)
    if group.sources or not group.exclude:
        mode = _MODE_EXCLUDE if group.exclude else 1
        head = request + mode.to_bytes(4, "little") + len(group.sources).to_bytes(4, "little")
        sources = b"".join(_sockaddr(group.family, source) for source in group.sources)
        _set(sock.fileno(), level, _MCAST_MSFILTER, head + sources)


def _groups4() -> list[tuple[int, bytes]]:
    """Interface and address: "2 eth0 : 1 V3" and below it "010000E0 1 0:00000000 0"."""
    found: list[tuple[int, bytes]] = []
    interface = 0
    for line in _lines("/proc/net/igmp")[1:]:
        words = line.split()
        if not line.startswith("\t"):
            interface = int(words[0])
        else:
            found.append((interface, int(words[0], 16).to_bytes(4, "little")))
    return found


def _groups6() -> list[tuple[int, bytes]]:
    """Interface and address: "2 eth0 ff020000000000000000000000000001 1 0000000C 0"."""
    return [(int(words[0]), bytes.fromhex(words[2])) for words in map(str.split, _lines("/proc/net/igmp6"))]


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="ascii") as file:
            return file.read().splitlines()
    except FileNotFoundError:
        return []  # a kernel without multicast, or without IPv6


def _sockaddr(family: int, address: bytes) -> bytes:
    between = _PORT_BYTES if family == _AF_INET else _PORT_AND_FLOW_BYTES
    return (family.to_bytes(2, "little") + bytes(between) + address).ljust(_ADDRESS_BYTES, b"\0")


def _request(family: int, interface: int, address: bytes) -> bytes:
    return interface.to_bytes(8, "little") + _sockaddr(family, address)


def _membership(fd: int, family: int, interface: int, address: bytes) -> Group | None:
    room = _HEAD_BYTES + _SOURCES_MAX * _ADDRESS_BYTES
    asked = bytearray(_request(family, interface, address).ljust(room, b"\0"))
    asked[_HEAD_BYTES - 4 : _HEAD_BYTES] = _SOURCES_MAX.to_bytes(4, "little")
    if _get(fd, _LEVELS[family], _MCAST_MSFILTER, _address(asked), room)[0] < 0:
        return None
    mode = int.from_bytes(asked[_HEAD_BYTES - 8 : _HEAD_BYTES - 4], "little")
    count = int.from_bytes(asked[_HEAD_BYTES - 4 : _HEAD_BYTES], "little")
    at = 2 + (_PORT_BYTES if family == _AF_INET else _PORT_AND_FLOW_BYTES)
    sources = []
    for number in range(min(count, _SOURCES_MAX)):
        start = _HEAD_BYTES + number * _ADDRESS_BYTES + at
        sources.append(bytes(asked[start : start + len(address)]))
    return Group(family, interface, address, mode == _MODE_EXCLUDE, sources)
