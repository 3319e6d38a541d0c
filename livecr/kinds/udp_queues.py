"""Datagrams that wait in a UDP socket: copied without being consumed, and sent again.

A look tells sender, TTL, TOS and the address that each was sent to. At restore raw(7) packets with these are
sent over the loopback device, which the kernel takes for what they say they are. A socket of IPv6 may have
those of IPv4 too. Called by sockets_inet.
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

_AF_INET, _AF_INET6 = 2, 10
_SOCK_DGRAM, _SOCK_RAW, _SOCK_CLOEXEC, _IPPROTO_RAW, _IPPROTO_UDP = 2, 3, 0o2000000, 255, 17
_SOL_SOCKET, _SOL_IP, _SOL_IPV6 = 1, 0, 41
_MSG_TRUNC = 0x20
# What a look is to tell besides the data (ip(7), ipv6(7)), by the family of the socket: first IP_PKTINFO or
# IPV6_RECVPKTINFO, then what asks for TTL and TOS of either family.
_IP_ASKED = ((_SOL_IP, 12, 1), (_SOL_IP, 13, 1))
_ASKED = {
    _AF_INET: ((_SOL_IP, 8, 1), *_IP_ASKED),
    _AF_INET6: ((_SOL_IPV6, 49, 1), (_SOL_IPV6, 51, 1), (_SOL_IPV6, 66, 1), *_IP_ASKED),
}
# Where it is told: IP_PKTINFO, IPV6_PKTINFO; IP_TTL, IPV6_HOPLIMIT; IP_TOS, IPV6_TCLASS; and the original
# address, which a restore makes the same as the one that it was sent to.
_PKTINFO, _PKTINFO6 = (_SOL_IP, 8), (_SOL_IPV6, 50)
_TTL, _TTL6, _TOS, _TOS6 = (_SOL_IP, 2), (_SOL_IPV6, 52), (_SOL_IP, 1), (_SOL_IPV6, 67)
_KNOWN = {_PKTINFO, _PKTINFO6, _TTL, _TTL6, _TOS, _TOS6, (_SOL_IP, 20), (_SOL_IPV6, 74)}
_MAPPED = bytes(10) + b"\xff\xff"  # before an IPv4 address in an IPv6 one
_LONGEST_BYTES = 65536
_LOOPBACK = 1  # the index of lo in every network namespace
_RCVBUF, _RCVBUFFORCE, _BUF_LOCK, _MEMINFO, _BINDTODEVICE = 8, 33, 72, 55, 25
_IFNAMSIZ = 16
_FILLING_BYTES = 1 << 29
_TRIES, _ARRIVAL_TRIES, _PAUSE_S = 5, 200, 0.005
_TOLD = {(1, 29): "time of arrival (SO_TIMESTAMP)", (1, 35): "time of arrival (SO_TIMESTAMPNS)"}
_LATER = "try again when the program has read it"


class Datagram(Record):
    """``host``, ``port``: of the sender; ``to``: the address that it was sent to.

    Both in numbers, and of IPv4 if it came by that. ``ttl``, ``tos``: of IPv6 hop limit and traffic class.
    """

    data: bytes
    host: str
    port: int
    to: str
    ttl: int
    tos: int


def obstacle(family: int, protocol: str) -> tuple[str, str] | None:
    """Of a socket with datagrams in it; of each of them ``save`` tells, in the freeze."""
    what, later = "has datagrams that are not read yet", "try again a little later"
    if family not in _ASKED or protocol not in ("UDP", "UDPv6"):
        return what, later
    try:
        from livecr.kernel.peek import Peek

        Peek.open()
    except Unavailable as error:
        return f"{what}, and BPF is missing ({error})", later
    return None


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
    asked, offset = _ASKED[sock.family], 0
    asks_where = sockopt.option_of(sock.fileno(), *asked[0][:2])
    while True:
        options = [*asked, (_SOL_SOCKET, recvmsg.SO_PEEK_OFF, offset)]
        got = recvmsg.peek(sock.fileno(), _LONGEST_BYTES, _MSG_TRUNC, options)
        if isinstance(got, int):
            return found
        told = {(level, kind): value for level, kind, value in got.control}
        one, interface = _datagram(sock.family, got, told)
        scope = sock.family == _AF_INET6 and int.from_bytes(got.name[24:28], "little")
        strange = sorted(set(told) - _KNOWN)
        lost = ""
        if strange:
            names = [_TOLD.get(name, f"control data {name[1]} of level {name[0]}") for name in strange]
            lost = f"with {', '.join(names)}"
        elif asks_where and interface != _LOOPBACK:
            lost = "and is told by which interface they came (IP_PKTINFO)"
        elif scope:
            lost = f"from {one.host}, which is an address of one link only"
        elif not _is_own(one.to):
            lost = f"sent to {one.to}, a group, a broadcast address or none of this machine's"
        if lost:
            raise Refused(f"it holds datagrams {lost}", where=where, way_out=_LATER)
        found.append(one)
        offset += len(got.data)


def _datagram(family: int, got: recvmsg.Received, told: dict[tuple[int, int], bytes]) -> tuple[Datagram, int]:
    """And the index of the interface by which it came."""
    if family == _AF_INET:  # struct sockaddr_in, struct in_pktinfo
        host, info = got.name[4:8], told.get(_PKTINFO, bytes(12))
        to, interface = info[8:12], info[:4]
    else:  # struct sockaddr_in6, struct in6_pktinfo
        host, info = got.name[8:24], told.get(_PKTINFO6, bytes(20))
        to, interface = info[:16], info[16:20]
    ttl, tos = told.get(_TTL) or told.get(_TTL6, b"\x40"), told.get(_TOS) or told.get(_TOS6, b"\0")
    one = Datagram(
        data=got.data,
        host=_text(host),
        port=int.from_bytes(got.name[2:4], "big"),
        to=_text(to),
        ttl=ttl[0],
        tos=tos[0],
    )
    return one, int.from_bytes(interface, "little")


def _text(address: bytes) -> str:
    from _socket import inet_ntop

    address = address.removeprefix(_MAPPED)
    return str(inet_ntop(_AF_INET if len(address) == 4 else _AF_INET6, address))


def _family(host: str) -> int:
    return _AF_INET6 if ":" in host else _AF_INET


def _is_own(host: str) -> bool:
    """Whether it is an address of this machine, and not one of many receivers."""
    from _socket import socket

    asking = socket(_family(host), _SOCK_DGRAM | _SOCK_CLOEXEC)
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
        for one in datagrams:
            inet_pton(_family(one.to), one.to)
            inet_pton(_family(one.to), one.host)
        if sock.type != _SOCK_DGRAM or (sock.family == _AF_INET and any(":" in one.to for one in datagrams)):
            raise OSError
    except OSError:
        raise BadImage("a datagram comes from no address or goes to none", where=where) from None
    fd, port = sock.fileno(), sock.getsockname()[1]
    size, lock = sockopt.integer(fd, _RCVBUF), sockopt.integer(fd, _BUF_LOCK)
    raw: dict[int, socket] = {}
    try:
        sock.setsockopt(_SOL_SOCKET, _RCVBUFFORCE, _FILLING_BYTES)
        for one in datagrams:
            if not _is_own(one.to):
                raise Refused(
                    f"a datagram that waits in it was sent to {one.to}",
                    where=where,
                    way_out="give the machine that address",
                )
            family, before = _family(one.to), _waiting_bytes(fd)
            if family not in raw:
                raw[family] = socket(family, _SOCK_RAW | _SOCK_CLOEXEC, _IPPROTO_RAW)
                raw[family].setsockopt(_SOL_SOCKET, _BINDTODEVICE, b"lo")
            raw[family].sendto(_packet(one, port), (one.to, 0))
            _await_arrival(fd, before, where)
        sock.setsockopt(_SOL_SOCKET, _RCVBUFFORCE, size // 2)  # the kernel doubles it
        sock.setsockopt(_SOL_SOCKET, _BUF_LOCK, lock)
    finally:
        for sender in raw.values():
            sender.close()


def _packet(one: Datagram, port: int) -> bytes:
    """An IP packet (raw(7)). Of a header of IPv4 the kernel fills in identification and checksum."""
    from _socket import inet_pton

    family, length = _family(one.to), 8 + len(one.data)
    addresses = inet_pton(family, one.host) + inet_pton(family, one.to)
    words: tuple[tuple[int, int], ...]
    if family == _AF_INET:
        words = ((0x45, 1), (one.tos, 1), (20 + length, 2), (0, 4), (one.ttl, 1), (_IPPROTO_UDP, 1), (0, 2))
    else:
        words = ((6 << 28 | one.tos << 20, 4), (length, 2), (_IPPROTO_UDP, 1), (one.ttl, 1))
    udp = b"".join(value.to_bytes(2, "big") for value in (one.port, port, length))
    sum_ = _checksum(addresses + length.to_bytes(4, "big") + _IPPROTO_UDP.to_bytes(4, "big") + udp + one.data)
    head = b"".join(value.to_bytes(size, "big") for value, size in words)
    return head + addresses + udp + sum_.to_bytes(2, "big") + one.data


def _checksum(data: bytes) -> int:
    """Of UDP over either family, with what stands for the IP header first; it is never 0 (RFC 768)."""
    return 0xFFFF - int.from_bytes(data + bytes(len(data) % 2), "big") % 0xFFFF


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
