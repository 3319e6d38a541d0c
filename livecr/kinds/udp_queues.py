"""Datagrams that wait in a UDP socket (IPv4): copied without being consumed, and sent again.

A look tells sender, TTL, TOS and the address that each was sent to. At restore raw(7) packets with these are
sent over the loopback device, which the kernel takes for what they say they are. Called by sockets_inet.
"""

from __future__ import annotations

from livecr.errors import BadImage, Refused
from livecr.image.record import Record
from livecr.kernel import recvmsg, sockopt
from livecr.kernel.bpf import Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket

__all__ = ["Datagram", "fill", "obstacle", "save"]

_AF_INET, _SOCK_DGRAM, _SOCK_RAW, _SOCK_CLOEXEC, _IPPROTO_RAW, _IPPROTO_UDP = 2, 2, 3, 0o2000000, 255, 17
_SOL_SOCKET, _SOL_IP = 1, 0
_MSG_TRUNC = 0x20
# What a look is to tell besides the data (ip(7)), and where it tells it.
_ASKED = ((_SOL_IP, 8, 1), (_SOL_IP, 12, 1), (_SOL_IP, 13, 1))  # IP_PKTINFO, IP_RECVTTL, IP_RECVTOS
_PKTINFO, _TTL, _TOS, _ORIGINAL = (_SOL_IP, 8), (_SOL_IP, 2), (_SOL_IP, 1), (_SOL_IP, 20)
_LONGEST_BYTES = 65536
_LOOPBACK = 1  # the index of lo in every network namespace
_RCVBUF, _RCVBUFFORCE, _BUF_LOCK, _MEMINFO, _BINDTODEVICE = 8, 33, 72, 55, 25
_IFNAMSIZ = 16
_FILLING_BYTES = 1 << 29
_TRIES, _ARRIVAL_TRIES, _PAUSE_S = 5, 200, 0.005
_TOLD = {(1, 29): "time of arrival (SO_TIMESTAMP)", (1, 35): "time of arrival (SO_TIMESTAMPNS)"}
_LATER = "try again when the program has read it"


class Datagram(Record):
    """``host``, ``port``: of the sender, ``host`` in numbers; ``to``: the address that it was sent to."""

    data: bytes
    host: str
    port: int
    to: str
    ttl: int
    tos: int


def obstacle(family: int, protocol: str) -> tuple[str, str] | None:
    """Of a socket with datagrams in it; of each of them ``save`` tells, in the freeze."""
    if family != _AF_INET or protocol != "UDP":
        return "has datagrams that are not read yet", "try again a little later"
    try:
        _count_of()
    except Unavailable as error:
        return (
            f"has datagrams that are not read yet, and BPF is missing ({error})",
            "try again a little later",
        )
    return None


def _count_of() -> object:
    from livecr.kernel.peek import Peek

    return Peek.open().datagrams


def save(sock: socket, where: str) -> list[Datagram]:
    """All that wait in livecr's duplicate of a frozen program's. Raises Refused."""
    from livecr.kernel.peek import Peek

    count = Peek.open().datagrams
    for _ in range(_TRIES):  # more may come in meanwhile
        expected = count(sock.fileno())
        found = [] if not expected else _look(sock, where)
        if len(found) == expected == count(sock.fileno()):
            break
    else:
        # SO_PEEK_OFF skips an empty one that somebody has looked at before (net/core/datagram.c).
        what = "it holds an empty datagram that was peeked before, or new ones come in all the time"
        raise Refused(what, where=where, way_out=_LATER)
    device = sock.getsockopt(_SOL_SOCKET, _BINDTODEVICE, _IFNAMSIZ).split(b"\0")[0] if found else b""
    if device not in (b"", b"lo"):
        what = f"it holds datagrams, and is bound to the interface {device.decode('ascii', 'replace')}"
        raise Refused(what, where=where, way_out=_LATER)
    if found and _sharing(sock.getsockname()[1]) > 1:
        what = "it holds datagrams, and shares its port with other sockets (SO_REUSEPORT, SO_REUSEADDR)"
        raise Refused(what, where=where, way_out=_LATER)
    return found


def _look(sock: socket, where: str) -> list[Datagram]:
    found: list[Datagram] = []
    offset, asks_where = 0, sockopt.option_of(sock.fileno(), *_PKTINFO)
    while True:
        options = [*_ASKED, (_SOL_SOCKET, recvmsg.SO_PEEK_OFF, offset)]
        got = recvmsg.peek(sock.fileno(), _LONGEST_BYTES, _MSG_TRUNC, options)
        if isinstance(got, int):
            return found
        told = {(level, kind): value for level, kind, value in got.control}
        interface = int.from_bytes(told.get(_PKTINFO, b"")[:4], "little")
        strange = set(told) - {_PKTINFO, _TTL, _TOS, _ORIGINAL}
        one = Datagram(
            data=got.data,
            host=_host(got.name[4:8]),
            port=int.from_bytes(got.name[2:4], "big"),
            to=_host(told.get(_PKTINFO, b"")[8:12]),
            ttl=int.from_bytes(told.get(_TTL, b"\x40")[:1], "little"),
            tos=int.from_bytes(told.get(_TOS, b"\0")[:1], "little"),
        )
        lost = ""
        if strange:
            names = [_TOLD.get(one, f"control data {one[1]} of level {one[0]}") for one in sorted(strange)]
            lost = f"with {', '.join(names)}"
        elif asks_where and interface != _LOOPBACK:
            lost = "and is told by which interface they came (IP_PKTINFO)"
        elif not _is_own(one.to):
            lost = f"sent to {one.to}, a group, a broadcast address or none of this machine's"
        if lost:
            raise Refused(f"it holds datagrams {lost}", where=where, way_out=_LATER)
        found.append(one)
        offset += len(got.data)


def _host(address: bytes) -> str:
    return ".".join(map(str, address.ljust(4, b"\0")))


def _is_own(host: str) -> bool:
    """Whether it is an address of this machine, and not one of many receivers."""
    from _socket import socket

    asking = socket(_AF_INET, _SOCK_DGRAM | _SOCK_CLOEXEC)
    try:
        asking.connect((host, 9))  # EACCES: it is a broadcast address
        return bool(asking.getsockname()[0] == host or host.startswith("127."))
    except OSError:
        return False
    finally:
        asking.close()


def _sharing(port: int) -> int:
    """How many sockets of this network namespace are bound to it."""
    count = 0
    for name in ("udp", "udp6"):
        try:
            with open(f"/proc/net/{name}", encoding="ascii") as file:
                count += sum(words[1].endswith(f":{port:04X}") for words in map(str.split, file))
        except FileNotFoundError:
            continue  # a kernel without IPv6
    return count


# -- loading -----------------------------------------------------------------------------------------------


def fill(sock: socket, datagrams: list[Datagram], where: str) -> None:
    """Put them back: when it is bound, and before it has a peer. Raises Refused."""
    if not datagrams:
        return
    from _socket import inet_pton, socket

    try:
        if (sock.family, sock.type) != (_AF_INET, _SOCK_DGRAM):
            raise OSError
        for one in datagrams:
            inet_pton(_AF_INET, one.host), inet_pton(_AF_INET, one.to)
    except OSError:
        raise BadImage("a datagram comes from no address or goes to none", where=where) from None
    fd, port = sock.fileno(), sock.getsockname()[1]
    size, lock = sockopt.integer(fd, _RCVBUF), sockopt.integer(fd, _BUF_LOCK)
    raw = socket(_AF_INET, _SOCK_RAW | _SOCK_CLOEXEC, _IPPROTO_RAW)
    try:
        raw.setsockopt(_SOL_SOCKET, _BINDTODEVICE, b"lo")
        sock.setsockopt(_SOL_SOCKET, _RCVBUFFORCE, _FILLING_BYTES)
        for one in datagrams:
            if not _is_own(one.to):
                raise Refused(
                    f"a datagram that waits in it was sent to {one.to}",
                    where=where,
                    way_out="give the machine that address",
                )
            before = _waiting_bytes(fd)
            raw.sendto(_packet(one, port), (one.to, 0))
            _await_arrival(fd, before, where)
        sock.setsockopt(_SOL_SOCKET, _RCVBUFFORCE, size // 2)  # the kernel doubles it
        sock.setsockopt(_SOL_SOCKET, _BUF_LOCK, lock)
    finally:
        raw.close()


def _packet(one: Datagram, port: int) -> bytes:
    """An IP packet: of its header the kernel fills in length, identification and checksum (raw(7))."""
    from _socket import inet_aton

    length = 8 + len(one.data)
    parts = ((0x45, 1), (one.tos, 1), (20 + length, 2), (0, 4), (one.ttl, 1), (_IPPROTO_UDP, 1), (0, 2))
    head = b"".join(value.to_bytes(size, "big") for value, size in parts)
    addresses = inet_aton(one.host) + inet_aton(one.to)
    # A UDP checksum of 0 stands for none.
    udp = b"".join(value.to_bytes(2, "big") for value in (one.port, port, length, 0))
    return head + addresses + udp + one.data


def _waiting_bytes(fd: int) -> int:
    """SK_MEMINFO_RMEM_ALLOC, the first word."""
    return int.from_bytes(sockopt.option(fd, _MEMINFO, 36)[:4], "little")


def _await_arrival(fd: int, before: int, where: str) -> None:
    import time

    for _ in range(_ARRIVAL_TRIES):
        if _waiting_bytes(fd) > before:
            return
        time.sleep(_PAUSE_S)
    raise Refused(
        "a datagram that waited in it does not arrive any more",
        where=where,
        way_out="let no packet filter stop UDP on the interface lo",
    )
