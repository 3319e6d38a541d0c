"""Netlink sockets in which nothing waits: port, groups, peer and options; see netlink(7).

Only of protocols in which the kernel keeps nothing else for a socket. A port is a number that any process may
bind to, so it is the same again; the groups are asked for by NETLINK_LIST_MEMBERSHIPS. Called by descriptors.
"""

from __future__ import annotations

import os

from livecr.errors import BadImage, Obstacle, Refused
from livecr.image.record import Record
from livecr.kernel import holders
from livecr.kernel.pidfd import Duplicate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket

    from livecr.kernel import procfs
    from livecr.kinds.files import Keeper

__all__ = ["PROTOCOLS", "NetlinkSocket", "load", "obstacle", "obstacles", "save"]

AF_NETLINK, SOL_SOCKET, SOL_NETLINK, SO_PROTOCOL = 16, 1, 270, 38
_ADD_MEMBERSHIP, _LIST_MEMBERSHIPS = 1, 9
_MEMBERSHIP_BYTES = 512  # a bit for each group
_LATER = "try again a little later"

# <linux/netlink.h>: what the kernel keeps for a socket of these is told by its options and groups.
PROTOCOLS = {
    0: "NETLINK_ROUTE",
    2: "NETLINK_USERSOCK",
    4: "NETLINK_SOCK_DIAG",
    6: "NETLINK_XFRM",
    15: "NETLINK_KOBJECT_UEVENT",
}
# And of these it may keep more: queues, logs, listeners, registrations.
_OTHERS = {
    9: "NETLINK_AUDIT",
    10: "NETLINK_FIB_LOOKUP",
    11: "NETLINK_CONNECTOR",
    12: "NETLINK_NETFILTER",
    16: "NETLINK_GENERIC",
    20: "NETLINK_RDMA",
    21: "NETLINK_CRYPTO",
}


class NetlinkSocket(Record, tag="netlink-socket"):
    """``port``: 0 if it is not bound. ``groups``: numbers from 1 on; ``peer``: port and groups, as a mask.

    ``flags``: O_NONBLOCK or 0; ``options`` and ``filter``: as of an internet socket.
    """

    inode: int
    socket_type: int
    protocol: int
    flags: int
    uid: int
    gid: int
    port: int
    groups: list[int]
    peer: list[int] | None
    options: dict[str, bytes]
    filter: bytes


def _adopted(fd: int) -> socket:
    from _socket import socket

    return socket(fileno=os.dup(fd))


# -- what stands in the way --------------------------------------------------------------------------------


def obstacle(d: procfs.Descriptor, stat: os.stat_result) -> tuple[str, str] | None:
    """Nothing is known from the link alone; see ``obstacles``."""
    return None


def obstacles(descriptors: list[procfs.Descriptor], insiders: frozenset[int]) -> list[Obstacle]:
    """Those of other protocols, with something in them, or that others have too."""
    found = []
    dumping = _dumping() if descriptors else set()
    for d in descriptors:
        with Duplicate(d.pid, d.fd) as ours:
            sock = _adopted(ours)
            try:
                what = _in_the_way(sock)
            finally:
                sock.close()
        if not what and d.target in dumping:
            what = ("a dump is not read to its end yet", _LATER)
        if what:
            found.append(Obstacle(d.where, f"the netlink socket {d.target}: {what[0]}", what[1]))
    shared = holders.others(insiders, {d.target for d in descriptors})
    for d in descriptors:
        if d.target in shared:
            other, comm, fd = shared[d.target]
            what = (f"it is shared with process {other} ({comm}, descriptor {fd})", "end that process first")
            found.append(Obstacle(d.where, f"the netlink socket {d.target}: {what[0]}", what[1]))
    return found


def _in_the_way(sock: socket) -> tuple[str, str] | None:
    import select

    from livecr.kernel import sockopt

    protocol = sock.getsockopt(SOL_SOCKET, SO_PROTOCOL)
    if protocol not in PROTOCOLS:
        name = _OTHERS.get(protocol, f"protocol {protocol}")
        return f"{name} cannot be saved", "the kernel may keep more for it than it tells"
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    if any(events & (select.POLLIN | select.POLLERR) for _, events in poll.poll(0)):
        return "messages or errors in it are not read yet", _LATER
    if sockopt.filter_of(sock) is None:
        return "it has an eBPF filter", "this version of livecr does not restore that"
    return None


def _dumping() -> set[str]:
    """Links of sockets whose dump is under way (/proc/net/netlink)."""
    with open("/proc/net/netlink", encoding="ascii") as file:
        names, *rows = [line.split() for line in file]
    dump, inode = names.index("Dump"), names.index("Inode")
    return {f"socket:[{row[inode]}]" for row in rows if row[dump] != "0"}


# -- saving ------------------------------------------------------------------------------------------------


def save(pid: int, d: procfs.Descriptor, stat: os.stat_result, keeper: Keeper) -> NetlinkSocket:
    """Of a frozen process; nothing of the socket is changed."""
    from _socket import socket

    from livecr.kernel import sockopt
    from livecr.kinds import inet_options

    with Duplicate(pid, d.fd) as ours:
        sock = _adopted(ours)
        protocol = sock.getsockopt(SOL_SOCKET, SO_PROTOCOL)
        fresh = socket(AF_NETLINK, sock.type, protocol)
        try:
            peer = list(sock.getpeername())
            members = sock.getsockopt(SOL_NETLINK, _LIST_MEMBERSHIPS, _MEMBERSHIP_BYTES)
            return NetlinkSocket(
                inode=stat.st_ino,
                socket_type=sock.type,
                protocol=protocol,
                flags=d.flags & os.O_NONBLOCK,
                uid=stat.st_uid,
                gid=stat.st_gid,
                port=sock.getsockname()[0],
                groups=[
                    8 * place + bit + 1
                    for place, byte in enumerate(members)
                    for bit in range(8)
                    if byte >> bit & 1
                ],
                peer=peer if any(peer) else None,
                options=inet_options.save(sock, fresh),
                filter=sockopt.filter_of(sock) or b"",
            )
        finally:
            sock.close()
            fresh.close()


# -- loading -----------------------------------------------------------------------------------------------


def load(record: NetlinkSocket) -> int:
    """A new socket in the same state. Raises Refused where its port is taken or a group is not there."""
    from _socket import socket

    from livecr.kernel import sockopt
    from livecr.kinds import inet_options

    if record.protocol not in PROTOCOLS:
        raise BadImage(f"a netlink socket of protocol {record.protocol}")
    sock = socket(AF_NETLINK, record.socket_type, record.protocol)
    try:
        os.fchown(sock.fileno(), record.uid, record.gid)
        if record.filter:
            sockopt.attach_filter(sock, record.filter)  # before SO_LOCK_FILTER
        inet_options.load(sock, record.options)
        if record.port:
            sock.bind((record.port, 0))
        for group in record.groups:
            sock.setsockopt(SOL_NETLINK, _ADD_MEMBERSHIP, group)
        if record.peer is not None:
            port, groups = record.peer
            sock.connect((port, groups))
        sock.setblocking(not record.flags & os.O_NONBLOCK)
        return sock.detach()
    except OSError as error:
        raise Refused(
            f"it cannot be made again: {error.strerror}",
            where=f"netlink socket {PROTOCOLS[record.protocol]}, port {record.port}",
            way_out="end what has bound a socket to that port (/proc/net/netlink tells)",
        ) from None
    finally:
        sock.close()
