"""Unix sockets whose other end, if they have one, is in the same process; with what waits in them.

sock_diag(7) tells which socket is whose peer. They are made anew in the half-built process itself, because
SO_PEERCRED names whoever called socketpair, listen or connect; all else is set by livecr through a duplicate.
A socket file that the program had bound is made again at its place.
"""

from __future__ import annotations

import os

from livecr.errors import Obstacle, Refused
from livecr.image.record import Record
from livecr.kernel import holders, procfs, sock_diag
from livecr.kernel.pidfd import Duplicate
from livecr.kinds import unix_backlog
from livecr.kinds.unix_in_flight import InFlight, Queues, has_error
from livecr.kinds.unix_queues import Message, buffer_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable

    from livecr.kernel.sock_diag import UnixSocket as Told

__all__ = ["OPTIONS", "UNIX_PEERS", "Option", "Saver", "SocketFile", "UnixSocket", "obstacle", "obstacles"]

#: What becomes of sockets that are connected to other programs: the checkpoint is refused, or the restored
#: program finds them closed by the other side.
UNIX_PEERS = REFUSE, CLOSE = ("refuse", "close")

SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET = 1, 2, 5
RECEIVING, SENDING, BOTH = 1, 2, 3  # RCV_SHUTDOWN, SEND_SHUTDOWN (include/net/sock.h)
SOL_SOCKET, SO_PEERCRED = 1, 17
SIOCUNIXFILE = 0x89E0  # <linux/un.h>: an O_PATH descriptor of the file that a socket is bound to (4.18)
_UCRED_BYTES = 12  # struct ucred: pid, uid, gid

# socket(7): what a unix socket can be told, and how many bytes the value has.
OPTIONS: tuple[tuple[str, int, int], ...] = (
    ("SO_SNDBUF", 7, 4),
    ("SO_RCVBUF", 8, 4),
    ("SO_REUSEADDR", 2, 4),
    ("SO_BROADCAST", 6, 4),
    ("SO_KEEPALIVE", 9, 4),
    ("SO_OOBINLINE", 10, 4),
    ("SO_PRIORITY", 12, 4),
    ("SO_LINGER", 13, 8),
    ("SO_PASSCRED", 16, 4),
    ("SO_RCVLOWAT", 18, 4),
    ("SO_RCVTIMEO", 20, 16),
    ("SO_SNDTIMEO", 21, 16),
    ("SO_TIMESTAMP", 29, 4),
    ("SO_PASSSEC", 34, 4),
    ("SO_TIMESTAMPNS", 35, 4),
    ("SO_MARK", 36, 4),
    ("SO_PEEK_OFF", 42, 4),
    ("SO_PASSPIDFD", 76, 4),
    ("SO_PASSRIGHTS", 83, 4),
)


class Option(Record):
    """One socket option of OPTIONS, with the bytes that getsockopt gave."""

    name: str
    value: bytes


class SocketFile(Record):
    """What a bound path names."""

    mode: int
    uid: int
    gid: int


class UnixSocket(Record, tag="unix-socket"):
    """One socket. ``type``: SOCK_*; ``state``: as sock_diag tells it; ``flags``: O_NONBLOCK or 0.

    ``peer``: the inode of the socket that it is connected to, 0 if that is closed, None if there is none.
    ``server``: the name of another program's datagram socket, to which it is connected again, or b"".
    ``peer_name``: what getpeername says. ``name``: what getsockname says; ``directory``: where it starts if
    it is a relative path, or the root directory that it was bound in. ``file``: None if there is none.
    ``creator_pid``, ``creator_uid``, ``creator_gid``: of SO_PEERCRED, 0 and -1 if that names nobody.
    ``waiting``: at one that listens; their clients are records of their own, with a ``peer`` of None.
    """

    inode: int
    socket_type: int
    state: int
    flags: int
    peer: int | None
    server: bytes
    peer_name: bytes
    shutdown: int
    failed: bool  # POLLERR: the peer was closed before it had read all
    name: bytes
    directory: str
    file: SocketFile | None
    backlog: int
    creator_pid: int
    creator_uid: int
    creator_gid: int
    uid: int
    gid: int
    options: list[Option]
    messages: list[Message]
    waiting: list[unix_backlog.Waiting]


def obstacle(d: procfs.Descriptor, stat: os.stat_result) -> tuple[str, str] | None:
    """Nothing that could be said of one socket alone; see ``obstacles``."""
    return None


# -- what stands in the way --------------------------------------------------------------------------------


def obstacles(
    descriptors: list[procfs.Descriptor],
    stats: dict[procfs.Descriptor, os.stat_result],
    insiders: frozenset[int],
    unix_peer: str,
    *,
    is_frozen: bool,
) -> list[Obstacle]:
    """Sockets that have to do with somebody outside, or whose state cannot be made again.

    ``descriptors``: the unix sockets of the tree, of a frozen one also those in flight; ``unix_peer``: one of
    UNIX_PEERS."""
    if not descriptors:
        return []
    told = sock_diag.unix_sockets()
    ours = {stats[d].st_ino: d for d in descriptors}
    found = []
    for d in ours.values():
        what = _own_obstacle(d, told, set(ours), insiders, unix_peer)
        if what:
            found.append(Obstacle(d.where, what[0], what[1]))
    # Of a socket that an outsider holds or is connected to: its inode, and that of ours.
    outside = {inode: inode for inode in ours}
    for one in told.values():
        if one.inode in ours and one.peer and one.peer not in ours:
            outside[one.peer] = one.inode
        elif one.peer in ours and one.inode not in ours:
            outside[one.inode] = one.peer
        if one.inode in ours:
            outside |= {client: one.inode for client in one.waiting if client and client not in ours}
    # A socket that no process has open may be in flight, until all queues have been looked at.
    is_open = is_frozen or not any(told[inode].queue for inode in ours if inode in told)
    having = holders.others(insiders, {f"socket:[{inode}]" for inode in outside})
    for theirs, inode in outside.items():
        holder = having.get(f"socket:[{theirs}]")
        if holder is None and (theirs == inode or not is_open):
            continue
        if theirs != inode and _is_let_go(told[inode], told.get(theirs), unix_peer):
            continue
        whom = f"a socket that no process has open (socket:[{theirs}])"
        if holder:
            whom = f"process {holder[0]} ({holder[1]}, descriptor {holder[2]})"
        relation = "is shared with" if theirs == inode else "is connected to"
        if theirs in told[inode].waiting:
            relation = "has a connection that waits to be accepted, of"
        relation = f"the unix socket {_named(told[inode])} {relation} {whom}"
        way_out = "close the connection, or start the program without it"
        if theirs != inode:
            way_out = "close it, or let the restored program find it closed: --unix-peer close"
        found.append(Obstacle(ours[inode].where, relation, way_out))
    return found


def _own_obstacle(
    d: procfs.Descriptor,
    told: dict[int, Told],
    ours: set[int],
    insiders: frozenset[int],
    unix_peer: str,
) -> tuple[str, str] | None:
    one = told.get(int(d.target[len("socket:[") : -1]))
    if one is None:
        return f"{d.target} is of another network namespace", "run livecr in that one"
    name = f"the unix socket {_named(one)}"
    waits = unix_backlog.obstacle(name, one)
    if waits:
        return waits
    at = [other for other in told.values() if one.inode in other.waiting]
    if (
        one.peer == 0
        and one.type != SOCK_DGRAM
        and not any(other.inode in ours for other in at)
        and (at or one.shutdown != BOTH)
    ):
        return f"{name} is not connected yet", "try again a little later"
    listening = {told[i].name for i in ours if i in told and told[i].state == sock_diag.LISTENING}
    alike = [other for other in told.values() if other.name == one.name and other is not one]
    if one.type != SOCK_DGRAM and one.name and one.name not in listening and alike:
        return f"{name} was accepted from a socket that is closed", "let the program close it"
    try:
        with Duplicate(d.pid, d.fd) as ours_here:
            sock = _adopted(os.dup(ours_here))
    except FileNotFoundError:
        return None  # it has just been closed
    try:
        creator = _creator(sock)[0]
        is_closed = bool(unix_peer == CLOSE and one.peer and one.peer not in ours)
        if creator and creator not in insiders and not is_closed:
            return f"{name} was made by process {creator} (SO_PEERCRED)", "let the program make its own"
        bound = _bound(sock)
        name_given = os.fsdecode(one.name)
        if bound and not bound[0].endswith(name_given) and not _same_place(name_given, bound[0]):
            return f"{name} was bound by a way that leads to {bound[0]} now", "this version cannot follow it"
        if bound and not bound[1] and os.path.lexists(bound[0]):
            return f"{name} is bound to a file that has been replaced", f"remove {bound[0]}"
        peer_name = _peer_name(sock) if one.peer == 0 else b""
        if peer_name and not peer_name.startswith(b"\0") and peer_name not in listening:
            return f"{name} was connected to {os.fsdecode(peer_name)}, which is closed", "let it be closed"
    finally:
        sock.close()
    return None


def _is_let_go(ours: Told, theirs: Told | None, unix_peer: str) -> bool:
    """Whether a connection between a socket of ours and another program's is no obstacle."""
    if theirs is None:
        return False  # it has just been closed: the next look will see that
    if _is_client(ours, theirs):
        return True
    mutual = theirs.peer == ours.inode
    return unix_peer == CLOSE and (ours.type != SOCK_DGRAM or mutual or ours.peer != theirs.inode)


def _is_client(ours: Told, theirs: Told) -> bool:
    """A datagram socket that is connected to a server by name, as by syslog(3): no state is in between."""
    to_name = theirs.name.startswith((b"/", b"\0"))
    return ours.type == SOCK_DGRAM and to_name and ours.peer == theirs.inode != ours.inode != theirs.peer


def _named(one: Told) -> str:
    name = os.fsdecode(one.name).replace("\0", "@")
    return f"{name} (socket:[{one.inode}])" if name else f"(socket:[{one.inode}])"


def _bound(sock: socket) -> tuple[str, os.stat_result | None] | None:
    """The absolute path of the socket file that it was bound to, and its stat unless it has been removed."""
    import fcntl

    try:
        fd = fcntl.ioctl(sock.fileno(), SIOCUNIXFILE)
    except OSError:  # ENOENT: it has no name, or an abstract one
        return None
    try:
        path, stat = os.readlink(f"/proc/self/fd/{fd}"), os.fstat(fd)
    finally:
        os.close(fd)
    return (path, stat) if stat.st_nlink else (path.removesuffix(" (deleted)"), None)


def _start(path: str, name: str) -> str:
    """From where ``name`` leads to ``path``; "" if that is the root directory, or it is no path."""
    return "" if _same_place(name, path) else path.removesuffix(name)


def _same_place(name: str, path: str) -> bool:
    """Whether both are in one directory: there may have been a symbolic link on the way."""
    try:
        same = os.path.samefile(os.path.dirname(name), os.path.dirname(path))
    except OSError:
        return False  # there is no such place in our root directory
    return name.startswith("/") and same and os.path.basename(name) == os.path.basename(path)


def _adopted(fd: int) -> socket:
    """A descriptor as a socket object, which closes it. Not socket.socket, which imports enum and more."""
    import _socket

    return _socket.socket(fileno=fd)


def _creator(sock: socket) -> tuple[int, int, int]:
    """SO_PEERCRED: pid, uid, gid; pid 0 and -1 where there is none."""
    told = sock.getsockopt(SOL_SOCKET, SO_PEERCRED, _UCRED_BYTES)
    pid, uid, gid = (int.from_bytes(told[at : at + 4], "little", signed=True) for at in (0, 4, 8))
    return pid, uid, gid


def _peer_name(sock: socket) -> bytes:
    try:
        return os.fsencode(sock.getpeername())
    except OSError:  # ENOTCONN
        return b""


# -- saving ------------------------------------------------------------------------------------------------


class Saver:
    """Describes the unix sockets of a frozen process; as sock_diag told when their queues were looked at."""

    def __init__(
        self,
        duplicate: Callable[[procfs.Descriptor], int],
        descriptors: list[procfs.Descriptor],
        stats: dict[procfs.Descriptor, os.stat_result],
        queues: Queues,
        places: dict[int, int],
        insiders: frozenset[int],
        unix_peer: str,
    ) -> None:
        """``descriptors``: all unix sockets of the tree, also those in flight; ``queues``: what is in them;
        ``places``: of livecr's descriptors of what is in flight, their place in the list of descriptions."""
        self._duplicate = duplicate
        self._queues = queues
        self._places = places
        self._insiders = insiders
        self._closes = unix_peer == CLOSE
        self._ours = {stats[d].st_ino for d in descriptors}
        self._holders = {d.pid for d in descriptors if not isinstance(d, InFlight)}
        self._told = queues.told

    def save(self, d: procfs.Descriptor, stat: os.stat_result) -> UnixSocket:
        """One of them. Raises Refused for a message that cannot be kept."""
        one = self._told[stat.st_ino]
        sock = _adopted(self._duplicate(d))
        try:
            failed = has_error(sock.fileno())
            creator, uid, gid = _creator(sock)
            peer, server, shutdown, peer_name = self._connection(one, _peer_name(sock))
            if creator not in self._holders and peer == 0:
                creator = 0 if isinstance(d, InFlight) else d.pid
            path, file = _bound(sock) or ("", None)
            return UnixSocket(
                inode=one.inode,
                socket_type=one.type,
                state=one.state,
                flags=d.flags & os.O_NONBLOCK,
                peer=peer,
                server=server,
                peer_name=peer_name,
                shutdown=shutdown,
                failed=failed,
                name=one.name,
                directory=_start(path, os.fsdecode(one.name)),
                file=SocketFile(mode=file.st_mode & 0o7777, uid=file.st_uid, gid=file.st_gid)
                if file
                else None,
                backlog=one.limit if one.state == sock_diag.LISTENING else 0,
                creator_pid=creator,
                creator_uid=uid,
                creator_gid=gid,
                uid=stat.st_uid,
                gid=stat.st_gid,
                options=_options(sock),
                messages=self._messages(one, d),
                waiting=self._waiting(one, d),
            )
        finally:
            sock.close()

    def _waiting(self, one: Told, d: procfs.Descriptor) -> list[unix_backlog.Waiting]:
        if one.state != sock_diag.LISTENING:
            return []
        connections, stand_in = self._queues.backlog(one.inode), min(self._holders, default=0)
        common = (connections, one, self._ours, self._insiders, stand_in, _where(one, d))
        return unix_backlog.save(*common, closes=self._closes)

    def _connection(self, one: Told, peer_name: bytes) -> tuple[int | None, bytes, int, bytes]:
        """Peer, server, shutdown and peer_name of the record; another program's socket counts as closed."""
        if any(one.inode in self._told[inode].waiting for inode in self._ours if inode in self._told):
            return None, b"", one.shutdown, b""
        if not one.peer or one.peer in self._ours:
            return one.peer, b"", one.shutdown, peer_name
        theirs = self._told.get(one.peer)
        if theirs is not None and _is_client(one, theirs):
            return None, peer_name, one.shutdown, b""
        return 0, b"", one.shutdown if one.type == SOCK_DGRAM else BOTH, b""

    def _messages(self, one: Told, d: procfs.Descriptor) -> list[Message]:
        found = self._queues.of(one.inode)
        where = _where(one, d)
        peer = self._told.get(one.peer) if one.peer else None
        mutual = peer is not None and peer.peer == one.inode
        if peer and mutual and one.type != SOCK_STREAM:
            taken = buffer_bytes(one.type, found)
            if taken not in (-1, peer.limit):
                raise Refused(
                    "it holds an empty message that was peeked before",
                    where=where,
                    way_out="try again when the program has read it",
                )
        if peer and not mutual and not peer.name:
            raise Refused("it is connected to a socket that is not connected to it", where=where)
        if found and not one.name and (one.peer is None or (peer and not mutual)):
            raise Refused("it holds messages of a former peer", where=where)
        names = {other.name for other in self._told.values() if other.inode in self._ours}
        for message in found:
            if one.type == SOCK_DGRAM and not mutual and message.source and message.source not in names:
                raise Refused(
                    f"it holds a message from {os.fsdecode(message.source)!r}, which is not the program's",
                    where=where,
                    way_out="try again when the program has read it",
                )
        return [
            Message(
                data=message.data,
                source=message.source,
                credentials=unix_backlog.credentials(message.credentials),
                descriptors=[self._places[fd] for fd in message.fds],
            )
            for message in found
        ]


def _where(one: Told, d: procfs.Descriptor) -> str:
    return d.where if isinstance(d, InFlight) else f"process {d.pid}, unix socket {_named(one)}"


def _options(sock: socket) -> list[Option]:
    found = []
    for name, number, size in OPTIONS:
        try:
            found.append(Option(name=name, value=sock.getsockopt(SOL_SOCKET, number, size)))
        except OSError:
            continue  # this kernel does not know it
    return found
