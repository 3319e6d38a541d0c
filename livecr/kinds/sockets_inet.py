"""Internet sockets that hold no connection, IPv4 and IPv6; of those with data UDP sockets.

TCP unbound, bound, listening; UDP, UDP-Lite, raw and ping (ICMP) sockets also with a fixed peer; with packet
filters, multicast groups, and datagrams that wait (udp_queues).

Relies on a duplicate (pidfd_getfd), which answers for the program's own socket: getsockname, getsockopt,
TCP_INFO, poll. Nothing is read from it, and no pending error is fetched. Called by descriptors.
"""

from __future__ import annotations

import os

from livecr._native import lib
from livecr.errors import BadImage, Obstacle, Refused
from livecr.image.record import Record
from livecr.kernel import holders
from livecr.kernel.pidfd import Duplicate
from livecr.kinds import udp_queues

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable

    from livecr.kernel import procfs
    from livecr.kernel.sockopt import Group
    from livecr.kinds.files import Keeper

__all__ = ["Address", "InetSocket", "Membership", "load", "obstacle", "obstacles", "save"]

AF_INET, AF_INET6 = 2, 10
SOCK_STREAM, SOCK_DGRAM, SOCK_RAW = 1, 2, 3
# What the kernel calls the protocols (/proc/net/protocols), as livecr knows them.
PROTOCOLS = ("TCP", "TCPv6", "UDP", "UDPv6", "UDP-Lite", "UDPLITEv6", "RAW", "RAWv6", "PING", "PINGv6")
_HAS_CORK = ("UDP", "UDPv6", "UDP-Lite", "UDPLITEv6")
_IPPROTO_ICMP = (1, 58)  # of a SOCK_DGRAM socket: ping, allowed to groups in net.ipv4.ping_group_range

_TCP_INFO, _TCP_INFO_BYTES = 11, 32  # the state, and six words from byte 8 on
_TCP_CLOSE, _TCP_LISTEN = 7, 10  # include/net/tcp_states.h
_ESTABLISHED = "01"  # TCP_ESTABLISHED, as /proc/net/raw has it
_UNACKED, _SACKED = 24, 28  # of a listening socket: connections that wait, and how many may
_SO_PROTOCOL = 38
_SIOCOUTQ = 0x5411
_IPPROTO_UDP, _UDP_CORK = 17, 1
_LATER = "try again a little later"
_NR_SETRESGID, _KEPT = 119, 0xFFFFFFFFFFFFFFFF


class Address(Record):
    """``host`` in numbers. ``flow`` and ``scope``: of IPv6 only."""

    host: str
    port: int
    flow: int
    scope: int


class Membership(Record):
    """Of a multicast group: addresses in numbers, ``interface`` by its index.

    ``exclude``: it hears all sources but ``sources``, else those alone.
    """

    host: str
    interface: int
    exclude: bool
    sources: list[str]


class InetSocket(Record, tag="inet-socket"):
    """``backlog``: of listen(2), None if it does not. ``local`` None: not bound; ``peer`` None: no peer.

    ``flags``: O_NONBLOCK or 0; ``options``: those that differ from a new socket's, as getsockopt tells them;
    ``filter``: of SO_ATTACH_FILTER, b"" for none.
    """

    family: int
    socket_type: int
    protocol: int
    flags: int
    uid: int
    gid: int
    local: Address | None
    peer: Address | None
    backlog: int | None
    options: dict[str, bytes]
    filter: bytes
    groups: list[Membership]
    datagrams: list[udp_queues.Datagram]


def _adopted(fd: int) -> socket:
    """As Python's own socket object, which then owns ``fd``."""
    from _socket import socket

    return socket(fileno=os.dup(fd))


# -- what stands in the way --------------------------------------------------------------------------------


def obstacle(d: procfs.Descriptor, stat: os.stat_result) -> tuple[str, str] | None:
    """Nothing is known from the link alone; see ``obstacles``."""
    return None


def obstacles(
    descriptors: list[procfs.Descriptor], protocol: Callable[..., str], insiders: frozenset[int]
) -> list[Obstacle]:
    """Connections, and whatever else would be lost. ``descriptors``: the internet sockets of the process."""
    found = []
    for d in descriptors:
        with Duplicate(d.pid, d.fd) as ours:
            sock = _adopted(ours)
            try:
                what = _in_the_way(sock, protocol(d))
            finally:
                sock.close()
        if what:
            found.append(Obstacle(d.where, f"{what[0]} ({d.target})", what[1]))
    shared = holders.others(insiders, {d.target for d in descriptors})
    for d in descriptors:
        if d.target in shared:
            other, comm, fd = shared[d.target]
            what = (f"it is shared with process {other} ({comm}, descriptor {fd})", "end that process first")
            found.append(Obstacle(d.where, f"{d.target}: {what[0]}", what[1]))
    return found


def _in_the_way(sock: socket, protocol: str) -> tuple[str, str] | None:
    if protocol not in PROTOCOLS:
        return f"a socket of protocol {protocol} cannot be saved", "this version of livecr does not know it"
    what = _of_tcp(sock) if sock.type == SOCK_STREAM else _of_datagrams(sock, protocol)
    if what:
        return what
    from livecr.kernel import sockopt

    if sockopt.filter_of(sock) is None:
        return f"the {protocol} socket has an eBPF filter", "this version of livecr does not restore that"
    return None


def _of_tcp(sock: socket) -> tuple[str, str] | None:
    state, waiting, _ = _tcp_info(sock)
    if state == _TCP_LISTEN:
        if waiting:
            return f"{waiting} connections wait to be accepted on TCP {_shown(sock.getsockname())}", _LATER
        return None
    if state == _TCP_CLOSE and not _events(sock) & _beyond_hang_up():
        return None
    name = _shown(sock.getsockname())
    peer = _peer(sock)
    if peer:
        name += f" to {_shown(peer)}"
    kind = "a TCP connection that has ended" if state == _TCP_CLOSE else "a TCP connection"
    return (
        f"{kind} cannot be saved: {name}",
        "this version of livecr restores no connections; let the program close it",
    )


def _of_datagrams(sock: socket, protocol: str) -> tuple[str, str] | None:
    from fcntl import ioctl

    name = f"the {protocol} socket {_shown(sock.getsockname())}"
    events = _events(sock)
    if events & _beyond_hang_up() & ~_ready():
        return f"{name} has errors that are not read yet", _LATER
    waits = udp_queues.obstacle(sock.family, protocol) if events & _ready() else None
    if waits:
        return f"{name} {waits[0]}", waits[1]
    if protocol in _HAS_CORK:
        unsent = int.from_bytes(ioctl(sock.fileno(), _SIOCOUTQ, bytes(4)), "little")
        if unsent or sock.getsockopt(17, _UDP_CORK):
            return f"{name} has data that is not sent yet", _LATER
    return None


def _tcp_info(sock: socket) -> tuple[int, int, int]:
    """State, and of a listening socket the connections that wait to be accepted, and the backlog."""
    told = sock.getsockopt(6, _TCP_INFO, _TCP_INFO_BYTES)
    words = [int.from_bytes(told[at : at + 4], "little") for at in (_UNACKED, _SACKED)]
    return told[0], words[0], words[1]


def _events(sock: socket) -> int:
    """What poll(2) says of it. Unlike SO_ERROR that fetches no error."""
    import select

    poll = select.poll()
    poll.register(sock, select.POLLIN | select.POLLPRI | select.POLLRDHUP)
    return sum(events for _, events in poll.poll(0))


def _beyond_hang_up() -> int:
    """POLLHUP alone is what a new TCP socket shows too."""
    import select

    return select.POLLIN | select.POLLPRI | select.POLLRDHUP | select.POLLERR


def _ready() -> int:
    import select

    return select.POLLIN


def _peer(sock: socket) -> tuple[object, ...] | None:
    try:
        return tuple(sock.getpeername())
    except OSError:  # ENOTCONN
        return None


def _raw_peer(family: int, inode: int) -> tuple[object, ...] | None:
    """Of a raw socket, which getpeername tells only if it was given a port: from /proc/net/raw."""
    from _socket import inet_ntop

    with open("/proc/net/raw6" if family == AF_INET6 else "/proc/net/raw", encoding="ascii") as file:
        for words in map(str.split, file):
            if words[9:10] == [str(inode)] and words[3] == _ESTABLISHED:
                digits = words[2].partition(":")[0]  # words of 32 bits, as they lie in memory
                whole = bytes.fromhex(digits)
                raw = b"".join(whole[at : at + 4][::-1] for at in range(0, len(whole), 4))
                return str(inet_ntop(family, raw)), 0
    return None


def _shown(name: tuple[object, ...]) -> str:
    return f"[{name[0]}]:{name[1]}" if ":" in str(name[0]) else f"{name[0]}:{name[1]}"


# -- saving ------------------------------------------------------------------------------------------------


def save(pid: int, d: procfs.Descriptor, stat: os.stat_result, keeper: Keeper) -> InetSocket:
    """Of a frozen process; nothing of the socket is changed."""
    from livecr.kernel import sockopt
    from livecr.kinds import inet_options

    with Duplicate(pid, d.fd) as ours:
        sock = _adopted(ours)
        protocol = sock.getsockopt(1, _SO_PROTOCOL)
        fresh = _new(sock.family, sock.type, protocol, stat.st_gid)
        try:
            name = _address(sock.getsockname())
            peer = _raw_peer(sock.family, stat.st_ino) if sock.type == SOCK_RAW else _peer(sock)
            # The port of a raw socket is its protocol.
            unbound = (not name.port or sock.type == SOCK_RAW) and name.host in ("0.0.0.0", "::")
            listens, backlog = False, 0
            if sock.type == SOCK_STREAM:
                state, _, backlog = _tcp_info(sock)
                listens = state == _TCP_LISTEN
            return InetSocket(
                family=sock.family,
                socket_type=sock.type,
                protocol=protocol,
                flags=d.flags & os.O_NONBLOCK,
                uid=stat.st_uid,
                gid=stat.st_gid,
                local=None if unbound else name,
                peer=_address(peer) if peer else None,
                backlog=backlog if listens else None,
                options=inet_options.save(sock, fresh),
                filter=sockopt.filter_of(sock) or b"",
                groups=[_membership(group) for group in sockopt.groups(sock)],
                datagrams=_datagrams(sock, protocol, d),
            )
        finally:
            sock.close()
            fresh.close()


def _datagrams(sock: socket, protocol: int, d: procfs.Descriptor) -> list[udp_queues.Datagram]:
    if (sock.type, protocol) != (SOCK_DGRAM, _IPPROTO_UDP) or not _events(sock) & _ready():
        return []
    return udp_queues.save(sock, f"{d.where}, the UDP socket {_shown(sock.getsockname())}")


def _address(name: tuple[object, ...]) -> Address:
    host, port, *more = name
    flow, scope = more or (0, 0)
    return Address(host=str(host), port=int(str(port)), flow=int(str(flow)), scope=int(str(scope)))


def _membership(group: Group) -> Membership:
    from _socket import inet_ntop

    return Membership(
        host=str(inet_ntop(group.family, group.address)),
        interface=group.interface,
        exclude=group.exclude,
        sources=[str(inet_ntop(group.family, source)) for source in group.sources],
    )


def _new(family: int, type: int, protocol: int, gid: int) -> socket:
    """A socket. Ping sockets are for groups that may have them, root's or not; so this task joins ``gid``."""
    from _socket import socket

    if type != SOCK_DGRAM or protocol not in _IPPROTO_ICMP:
        return socket(family, type, protocol)
    own = os.getegid()
    lib.lcr_syscall(_NR_SETRESGID, _KEPT, gid, _KEPT, 0, 0, 0)  # of this thread alone
    try:
        return socket(family, type, protocol)
    finally:
        lib.lcr_syscall(_NR_SETRESGID, _KEPT, own, _KEPT, 0, 0, 0)


# -- loading -----------------------------------------------------------------------------------------------


def load(record: InetSocket) -> int:
    """A new socket in the same state. Raises Refused where its address is taken or not there any more.

    The address that a connected UDP socket got from connect(2) is one that it is bound to afterwards: only
    who dissolves the connection could tell.
    """
    types = (SOCK_STREAM, SOCK_DGRAM, SOCK_RAW)
    if record.family not in (AF_INET, AF_INET6) or record.socket_type not in types:
        raise BadImage(f"a socket of family {record.family} and type {record.socket_type}")
    from livecr.kernel import sockopt
    from livecr.kinds import inet_options

    try:
        sock = _new(record.family, record.socket_type, record.protocol, record.gid)
    except OSError as error:
        raise Refused(
            f"a socket of protocol {record.protocol} cannot be made: {error.strerror}",
            way_out="let net.ipv4.ping_group_range be as it was",
        ) from None
    try:
        if record.filter:
            sockopt.attach_filter(sock, record.filter)  # before SO_LOCK_FILTER
        # The owner before the address: sockets that share one (SO_REUSEPORT) have to be of the same user.
        os.fchown(sock.fileno(), record.uid, record.gid)
        inet_options.load(sock, record.options)
        if record.local is not None:
            sock.bind(_name(record, record.local))
        if record.datagrams and record.local is not None:
            udp_queues.fill(sock, record.datagrams, f"UDP socket {_shown(_name(record, record.local))}")
        for group in record.groups:
            sockopt.join(sock, _group(group))
        if record.peer is not None:
            sock.connect(_name(record, record.peer))
        if record.backlog is not None:
            sock.listen(record.backlog)
        sock.setblocking(not record.flags & os.O_NONBLOCK)
        return sock.detach()
    except OSError as error:
        kind = {SOCK_STREAM: "TCP", SOCK_DGRAM: "UDP"}.get(record.socket_type, "raw")
        where = f"{kind} socket {_shown(_name(record, record.local))}" if record.local else f"{kind} socket"
        raise Refused(
            f"it cannot be made again: {error.strerror}",
            where=where,
            way_out="end what uses that address (ss -lntup tells), or give the machine that address",
        ) from None
    finally:
        sock.close()


def _name(record: InetSocket, address: Address) -> tuple[object, ...]:
    """As Python's bind and connect take it, which would look any other host up in the DNS."""
    from _socket import inet_pton

    try:
        inet_pton(record.family, address.host)
    except OSError:
        raise BadImage(f"{address.host!r} is no address") from None
    if record.family == AF_INET:
        return address.host, address.port
    return address.host, address.port, address.flow, address.scope


def _group(record: Membership) -> Group:
    from _socket import inet_pton

    from livecr.kernel.sockopt import Group

    family = AF_INET6 if ":" in record.host else AF_INET
    try:
        address = inet_pton(family, record.host)
        sources = [inet_pton(family, source) for source in record.sources]
    except OSError:
        raise BadImage(f"{record.host!r} is no multicast group") from None
    return Group(family, record.interface, address, record.exclude, sources)
