"""What getsockopt(2) tells of a socket, but not to Python's: packet filters, and multicast groups.

No call lists the groups of a socket, so it is asked for each that /proc/net/igmp and igmp6 list:
MCAST_MSFILTER (ip(7)) tells of one group whether this socket has joined it. Called by kinds/sockets_inet.
"""

from __future__ import annotations

from livecr._native import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket

__all__ = ["has_filter", "membership"]

_NR_GETSOCKOPT = 55
_SOL_SOCKET, _SO_GET_FILTER = 1, 26
_MCAST_MSFILTER = 48
_FILTER_BYTES = 144  # struct group_filter without sources: interface, sockaddr_storage, mode, count
_AF_INET, _AF_INET6 = 2, 10
_SOL_IP, _SOL_IPV6 = 0, 41
_PORT_BYTES, _PORT_AND_FLOW_BYTES = 2, 6  # between the family and the address


def has_filter(sock: socket) -> bool:
    """Has it a packet filter (SO_ATTACH_FILTER, SO_ATTACH_BPF)?

    A length of 0 asks how many instructions it has, and copies none. Of eBPF nothing is told (EACCES).
    """
    size = ffi.new("int *", 0)
    at = int(ffi.cast("uintptr_t", size))
    result = int(lib.lcr_syscall(_NR_GETSOCKOPT, sock.fileno(), _SOL_SOCKET, _SO_GET_FILTER, 0, at, 0))
    return result < 0 or size[0] > 0


def membership(sock: socket) -> str | None:
    """The first group found that it is a member of."""
    from _socket import inet_ntop

    rows = [(_AF_INET, _SOL_IP, group) for group in _groups4()]
    if sock.family == _AF_INET6:
        rows += [(_AF_INET6, _SOL_IPV6, group) for group in _groups6()]
    for family, level, (interface, address) in rows:
        if _is_member(sock.fileno(), family, level, interface, address):
            return str(inet_ntop(family, address))
    return None


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


def _is_member(fd: int, family: int, level: int, interface: int, address: bytes) -> bool:
    between = _PORT_BYTES if family == _AF_INET else _PORT_AND_FLOW_BYTES
    asked = ffi.new("char[]", _FILTER_BYTES)
    start = interface.to_bytes(8, "little") + family.to_bytes(2, "little") + bytes(between) + address
    ffi.memmove(asked, start, len(start))
    size = ffi.new("int *", _FILTER_BYTES)
    at = (int(ffi.cast("uintptr_t", asked)), int(ffi.cast("uintptr_t", size)))
    return int(lib.lcr_syscall(_NR_GETSOCKOPT, fd, level, _MCAST_MSFILTER, *at, 0)) == 0
