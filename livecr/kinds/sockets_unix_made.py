"""The unix sockets of an image made anew: the loading half of sockets_unix, in the order that works.

socketpair, listen and connect are called in the half-built processes, since SO_PEERCRED names their caller;
names, data and options come from livecr, which has a duplicate of each. Called by descriptors_made.
"""

from __future__ import annotations

import os

from livecr.errors import Failed, Refused
from livecr.kernel import sock_diag
from livecr.kernel.own_fs import elsewhere
from livecr.kernel.pidfd import duplicate
from livecr.kinds import unix_sending
from livecr.kinds.sockets_unix import (
    BOTH,
    OPTIONS,
    SOCK_DGRAM,
    SOL_SOCKET,
    UnixSocket,
)
from livecr.target.program import Program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket

    from livecr.kinds.unix_backlog import Waiting
    from livecr.target.spawn import Seed

__all__ = ["Made"]

AF_UNIX, SOCK_CLOEXEC = 1, 0o2000000
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33
_FORCED = {"SO_SNDBUF": SO_SNDBUFFORCE, "SO_RCVBUF": SO_RCVBUFFORCE}
# Clients that are closed while they wait to be accepted: as inodes, of which there are less.
_CLOSING = 1 << 64
_SUN_PATH_BYTES = 108


class Made:
    """Sockets by inode number; the negative of it is a peer that is closed in the end.

    First ``make``, then ``fill`` when all else is there, then ``take`` each.
    """

    def __init__(self, records: list[UnixSocket], seeds: dict[int, Seed]) -> None:
        """``seeds``: by the PID in the image, the root of the tree first."""
        self._records = {record.inode: record for record in records}
        self._seeds = seeds
        self._root = next(iter(seeds.values()))
        self._here: dict[int, socket] = {}
        self._closing = _CLOSING
        self._waiting: list[tuple[int, Waiting, UnixSocket]] = []
        self._listeners = {
            (record.socket_type, record.name): record
            for record in records
            if record.state == sock_diag.LISTENING
        }

    def take(self, inode: int) -> int:
        """Hand one over: livecr's descriptor of it."""
        return self._here.pop(inode).detach()

    def numbers(self, sockets: dict[int, UnixSocket]) -> dict[int, int]:
        """livecr's descriptors of these, by the same keys."""
        return {i: self._here[record.inode].fileno() for i, record in sockets.items()}

    def close(self) -> None:
        """Close livecr's duplicates, those of closed peers among them."""
        for sock in self._here.values():
            sock.close()
        self._here.clear()

    def make(self) -> None:
        """All of them, with their names. No seed has a descriptor open before or after.

        Raises Refused, Failed.
        """
        try:
            self._make()
        except OSError as error:
            raise _failed(error) from None

    def fill(self, descriptors: dict[int, int]) -> None:
        """Put back what was in them, and all else. ``descriptors``: livecr's own, by the places of their
        descriptions. Raises Refused, Failed."""
        try:
            self._finish(descriptors)
        except OSError as error:
            raise _failed(error) from None

    def _make(self) -> None:
        accepted: list[tuple[int, int, UnixSocket]] = []
        for record in self._records.values():
            if not self._is_joined(record):
                self._create(record.inode, record.socket_type)
                if record.peer == 0:
                    self._create(-record.inode, record.socket_type)
                continue
            peer = record.peer or -record.inode
            if record.inode in self._here or peer in self._here or peer in (p[0] for p in accepted):
                continue
            ends = self._accepted_end(record, peer)
            if ends:
                self._create(ends[1], record.socket_type)
                accepted.append(ends)
            else:
                self._pair(record, peer)
        for record in self._records.values():
            if record.inode not in (end for end, _, _ in accepted):
                self._bind(record)
        for record in self._listeners.values():
            self._listen(record, record.backlog)
        for end, client, listener in accepted:
            self._accept(end, client, listener)
        for record in self._listeners.values():
            self._wait(record)
        for seed in self._seeds.values():
            seed.drop_fetched()

    def _is_joined(self, record: UnixSocket) -> bool:
        """Whether it was made together with its peer. Datagram sockets may have been connected by name."""
        if record.peer is None or record.socket_type != SOCK_DGRAM:
            return record.peer is not None
        mutual = not record.peer or self._records[record.peer].peer == record.inode
        return mutual and record.creator_uid != -1

    def _accepted_end(self, record: UnixSocket, peer: int) -> tuple[int, int, UnixSocket] | None:
        """Which end was accepted, which one called connect, and from which listening socket it came."""
        other = self._records.get(peer)
        for end, client, name in (
            (record.inode, peer, record.name),
            (peer, record.inode, other.name if other else record.peer_name),
        ):
            listener = self._listeners.get((record.socket_type, name))
            if name and listener:
                return end, client, listener
        return None

    # -- calls in a seed ---------------------------------------------------------------------------------

    def _creator(self, record: UnixSocket | Waiting) -> Seed:
        """The process that SO_PEERCRED shall name."""
        return self._seeds.get(record.creator_pid, self._root)

    def _there(self, inode: int, seed: Seed) -> int:
        """The number of a socket in ``seed``."""
        ours = self._here[inode].fileno()
        return seed.fetch([ours])[ours]

    def _as_user(self, record: UnixSocket | Waiting, name: str, *args: int) -> None:
        """One call with the effective user and group that SO_PEERCRED shall name."""
        uid, gid = max(record.creator_uid, 0), max(record.creator_gid, 0)
        program = Program()
        if uid or gid:
            program.add("setresgid", -1, gid, -1)
            program.add("setresuid", -1, uid, -1)
        program.add(name, *args, must=False)
        if uid or gid:
            program.add("setresuid", -1, 0, -1)
            program.add("setresgid", -1, 0, -1)
        result = self._creator(record).run(program)[2 if uid or gid else 0]
        if result < 0:
            where = _where(record) if isinstance(record, UnixSocket) else "a client that waits"
            raise Failed(f"{name}: {os.strerror(-result)}", where=where)

    def _create(self, inode: int, type: int) -> None:
        program = Program()
        program.add("socket", AF_UNIX, type | SOCK_CLOEXEC, 0)
        self._took(inode, self._root.run(program)[0], self._root)

    def _pair(self, record: UnixSocket, peer: int) -> None:
        seed = self._creator(record)
        at = seed.room(8)
        self._as_user(record, "socketpair", AF_UNIX, record.socket_type | SOCK_CLOEXEC, 0, at)
        both = seed.leader.read(at, 8)
        self._took(record.inode, int.from_bytes(both[:4], "little"), seed)
        self._took(peer, int.from_bytes(both[4:], "little"), seed)

    def _listen(self, record: UnixSocket, backlog: int) -> None:
        self._as_user(record, "listen", self._there(record.inode, self._creator(record)), backlog)

    def _accept(self, end: int, client: int, listener: UnixSocket) -> None:
        record = self._records.get(end) or self._records[client]
        self._connect(record, client, listener)
        seed = self._creator(record)
        program = Program()
        program.add("accept4", self._there(listener.inode, seed), 0, 0, SOCK_CLOEXEC)
        self._took(end, seed.run(program)[0], seed)

    def _connect(self, maker: UnixSocket | Waiting, client: int, listener: UnixSocket) -> None:
        """By the process of which SO_PEERCRED of the accepted socket shall tell."""
        address = AF_UNIX.to_bytes(2, "little") + os.fsencode(_address(listener))
        length = len(address) if listener.name.startswith(b"\0") else len(address) + 1
        seed = self._creator(maker)
        number = self._there(client, seed)
        self._as_user(maker, "connect", number, seed.put(address + b"\0"), length)

    def _wait(self, listener: UnixSocket) -> None:
        """Its clients connect, and nobody accepts. No more may than the backlog and one."""
        if (
            listener.waiting
        ):  # what messages are to tell (SO_PASSCRED …) is inherited in connect since Linux 6.16
            _set_options(self._here[listener.inode], listener)
        if len(listener.waiting) > listener.backlog:
            self._listen(listener, len(listener.waiting))
        for waiting in listener.waiting:
            client = waiting.client or self._closing + 1
            if not waiting.client:
                self._closing = client
                self._create(client, listener.socket_type)
                if waiting.client_name:
                    self._bind_to(self._here[client], waiting.client_name, _where(listener))
            self._waiting.append((client, waiting, listener))
            self._connect(waiting, client, listener)
        if len(listener.waiting) > listener.backlog:
            self._listen(listener, listener.backlog)

    def _took(self, inode: int, number: int, seed: Seed) -> None:
        import _socket

        self._here[inode] = _socket.socket(fileno=duplicate(seed.process.pidfd, number))

    # -- names -------------------------------------------------------------------------------------------

    def _bind(self, record: UnixSocket) -> None:
        if not record.name:
            if record.peer == 0 and record.peer_name.startswith(b"\0") and -record.inode in self._here:
                self._bind_to(self._here[-record.inode], record.peer_name, _where(record))
            return
        sock = self._here[record.inode]
        if record.name.startswith(b"\0"):
            self._bind_to(sock, record.name, _where(record))
            return
        path = _address(record)
        _remove_stale(path, _where(record))

        def bind() -> None:
            # getsockname will give back the path as it was given.
            (os.chroot if record.name.startswith(b"/") else os.chdir)(record.directory)
            self._bind_to(sock, record.name, _where(record))

        try:
            if record.directory:
                elsewhere(bind)
            else:
                self._bind_to(sock, record.name, _where(record))
        except FileNotFoundError:
            raise Refused(
                "its directory is not there", where=_where(record), way_out=f"make {record.directory}"
            ) from None
        if record.file:
            os.chown(path, record.file.uid, record.file.gid)
            os.chmod(path, record.file.mode)
        else:
            os.unlink(path)

    def _bind_to(self, sock: socket, name: bytes, where: str) -> None:
        try:
            sock.bind(name)
        except OSError as error:
            raise Refused(
                f"bind: {error.strerror}",
                where=where,
                way_out="make its directory, and let nobody else have it",
            ) from None

    # -- what is in them ---------------------------------------------------------------------------------

    def _finish(self, descriptors: dict[int, int]) -> None:
        """Data first, then what would forbid to send it: peers, sizes, shutdown."""
        for record in self._records.values():
            self._fill(record, descriptors)
        for client, waiting, listener in self._waiting:
            sender = self._here[client]
            for message in waiting.messages:
                unix_sending.send(sender, message, {}, None, _where(listener))
            if not waiting.client:
                self._here.pop(client).close()
        for record in self._records.values():
            sock = self._here[record.inode]
            if record.peer is not None and not self._is_joined(record):
                sock.connect(_address(self._records[record.peer]) if record.peer else record.peer_name)
            if record.server:
                _connect_to_server(sock, record)
            if record.peer == 0:
                self._close_peer(record, sock)
            if record.shutdown and not (record.peer == 0 and record.shutdown == BOTH):
                sock.shutdown(record.shutdown - 1)
            _set_options(sock, record)
            os.fchown(sock.fileno(), record.uid, record.gid)
            os.set_blocking(sock.fileno(), not record.flags & os.O_NONBLOCK)

    def _fill(self, record: UnixSocket, descriptors: dict[int, int]) -> None:
        named = {other.name: other.inode for other in self._records.values() if other.name}
        for message in record.messages:
            joined = self._is_joined(record)
            if joined:
                sender = self._here[record.peer or -record.inode]
            elif message.source:
                sender = self._here[named[message.source]]
            else:
                sender = self._nobody()
            address = None if joined else _address(record)
            unix_sending.send(sender, message, descriptors, address, _where(record))

    def _nobody(self) -> socket:
        """A socket without a name, to send from."""
        if 0 not in self._here:
            import _socket

            self._here[0] = _socket.socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC)
        return self._here[0]

    def _close_peer(self, record: UnixSocket, sock: socket) -> None:
        if record.failed:
            sock.send(b"\0")  # a peer that is closed before it has read all leaves ECONNRESET behind
        self._here.pop(-record.inode).close()


def _connect_to_server(sock: socket, record: UnixSocket) -> None:
    try:
        sock.connect(record.server)
    except OSError as error:
        name = os.fsdecode(record.server).replace("\0", "@")
        raise Refused(
            f"the other program's socket {name} cannot be reached: {error.strerror}",
            where=_where(record),
            way_out="start that program",
        ) from None


def _failed(error: OSError) -> Failed:
    return Failed(f"its unix sockets: {error.strerror}", where="unix sockets")


def _set_options(sock: socket, record: UnixSocket) -> None:
    numbers = {name: (number, size) for name, number, size in OPTIONS}
    for option in record.options:
        number, size = numbers[option.name]
        try:
            if sock.getsockopt(SOL_SOCKET, number, size) == option.value:
                continue
            value = option.value
            if option.name in _FORCED:
                # The kernel doubles what it is told, for its own needs, and getsockopt gives the double.
                number = _FORCED[option.name]
                value = (int.from_bytes(value, "little") // 2).to_bytes(4, "little")
            sock.setsockopt(SOL_SOCKET, number, value)
        except OSError as error:
            raise Failed(f"{option.name}: {error.strerror}", where=_where(record)) from None


def _address(record: UnixSocket) -> bytes:
    """What reaches it from any working directory."""
    if not record.directory:
        return record.name
    path = os.fsencode(record.directory) + record.name
    if len(path) >= _SUN_PATH_BYTES:
        raise Refused("its path is too long", where=_where(record))
    return path


def _where(record: UnixSocket) -> str:
    name = os.fsdecode(record.name).replace("\0", "@")
    return f"unix socket {name or record.inode}"


def _remove_stale(path: bytes, where: str) -> None:
    """A socket file that no socket is bound to any more is in the way of nothing but bind."""
    try:
        there = os.lstat(path)
    except OSError:
        return
    in_use = {one.file[0] for one in sock_diag.unix_sockets().values() if one.file}
    if there.st_mode & 0o170000 != 0o140000 or there.st_ino & 0xFFFFFFFF in in_use:
        raise Refused("its place is taken", where=where, way_out=f"remove {os.fsdecode(path)}")
    os.unlink(path)
