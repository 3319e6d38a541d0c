"""Descriptor tables, and the registry of the kinds of open file description that they can point to.

A description is what open(2) makes and dup(2) and fork(2) share; descriptors that share one do so after a
restore, in whatever processes of the tree they are. Relies on /proc/PID/fd, fdinfo, and kcmp(2) with
KCMP_FILE. A new kind is a new file here and a line in KINDS.
"""

from __future__ import annotations

import os
import stat as st
from array import array
from contextlib import suppress

from livecr._native import ffi, lib
from livecr.errors import Failed, Obstacle, Refused
from livecr.image.record import Record
from livecr.kernel import leader, procfs
from livecr.kinds import (
    devices,
    directories,
    epoll,
    eventfd,
    files,
    inotify,
    io_uring,
    locks,
    memfd,
    mqueue,
    owners,
    paths,
    pidfds,
    pipes,
    signalfd,
    sockets_inet,
    sockets_netlink,
    sockets_unix,
    timerfd,
    ttys,
    unix_in_flight,
    unsaved,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

__all__ = ["Description", "Descriptor", "Descriptors", "Table", "obstacles", "save"]

Description = (
    files.File
    | directories.Directory
    | devices.Device
    | pipes.Pipe
    | pipes.Fifo
    | eventfd.EventFd
    | sockets_unix.UnixSocket
    | memfd.MemFd
    | mqueue.MessageQueue
    | sockets_inet.InetSocket
    | sockets_netlink.NetlinkSocket
    | epoll.Epoll
    | timerfd.TimerFd
    | signalfd.SignalFd
    | inotify.Inotify
    | io_uring.IoUring
    | ttys.PtyMaster
    | ttys.Tty
    | pidfds.PidFd
    | paths.PathOnly
)

_INTS = "int[]"
F_DUPFD_CLOEXEC = 1030
O_CLOEXEC = os.O_CLOEXEC
_NR_KCMP, _KCMP_FILE = 312, 0

# How a kind is known: by the type in st_mode, and what the link of /proc/PID/fd starts with; of a socket,
# which the link only numbers, "socket:" and its protocol; of a message queue, whose link is like that of a
# file in the root directory, "mqueue:".
KINDS: tuple[tuple[Callable[[int], bool], str, ModuleType], ...] = (
    (st.S_ISREG, "mqueue:", mqueue),
    (st.S_ISREG, "/memfd:", memfd),
    (st.S_ISREG, "/secretmem (deleted)", unsaved),
    (st.S_ISREG, "/dmabuf:", unsaved),
    (st.S_ISREG, "/", files),
    (st.S_ISDIR, "/", directories),
    (st.S_ISCHR, "/dev/pts/", ttys),
    (st.S_ISCHR, "/dev/ptmx", ttys),
    (st.S_ISCHR, "/dev/tty", ttys),
    (st.S_ISCHR, "/dev/console", ttys),
    (st.S_ISCHR, "/", devices),
    (st.S_ISFIFO, "", pipes),
    (lambda mode: not st.S_IFMT(mode), "anon_inode:[eventfd]", eventfd),
    (st.S_ISSOCK, "socket:UNIX", sockets_unix),
    (st.S_ISSOCK, "socket:TCP", sockets_inet),
    (st.S_ISSOCK, "socket:UDP", sockets_inet),
    (st.S_ISSOCK, "socket:RAW", sockets_inet),
    (st.S_ISSOCK, "socket:PING", sockets_inet),
    (st.S_ISSOCK, "socket:NETLINK", sockets_netlink),
    (lambda mode: not st.S_IFMT(mode), "anon_inode:[eventpoll]", epoll),
    (lambda mode: not st.S_IFMT(mode), "anon_inode:[timerfd]", timerfd),
    (lambda mode: not st.S_IFMT(mode), "anon_inode:[signalfd]", signalfd),
    (lambda mode: not st.S_IFMT(mode), "anon_inode:inotify", inotify),
    (lambda mode: not st.S_IFMT(mode), "anon_inode:[pidfd]", pidfds),
    (lambda mode: not st.S_IFMT(mode), "pidfd:", pidfds),
    (lambda mode: not st.S_IFMT(mode), "anon_inode:[io_uring]", io_uring),
)


class Descriptor(Record):
    """One entry of a process's table: ``description`` is an index into the tree's."""

    fd: int
    description: int
    close_on_exec: bool


class Table(Record):
    """All descriptions that a tree has open, what is in its pipes, its locks, and its terminals."""

    descriptions: list[Description]
    pipes: list[pipes.Contents]
    locks: list[locks.Lock]
    terminals: list[ttys.Terminal]
    signal_owners: list[owners.Owner]
    leases: list[owners.Lease]


class Descriptors:
    """The open descriptors of some processes as they are now, each with its stat."""

    def __init__(self, pids: list[int]) -> None:
        self.pids = pids
        self.insiders = frozenset(pids)
        self.open: list[procfs.Descriptor] = []
        self.stats: dict[procfs.Descriptor, os.stat_result] = {}
        self.is_frozen = False
        self._terminals: ttys.Look | None = None
        self._kinds: dict[procfs.Descriptor, ModuleType | None] = {}
        for pid in pids:
            for d in procfs.descriptors(pid):
                with suppress(FileNotFoundError):  # of a running process: it has just been closed
                    self.stats[d] = d.stat()
                    self.open.append(d)

    def kind(self, d: procfs.Descriptor) -> ModuleType | None:
        """The module that saves this one, or None."""
        if d not in self._kinds:
            self._kinds[d] = self._find_kind(d)
        return self._kinds[d]

    def _find_kind(self, d: procfs.Descriptor) -> ModuleType | None:
        mode, name = self.stats[d].st_mode, d.target
        if paths.is_one(d, self.stats[d]):
            return paths
        if st.S_ISSOCK(mode):
            name = f"socket:{self.protocol(d)}"
        elif st.S_ISREG(mode) and mqueue.is_queue(d, self.stats[d]):
            name = "mqueue:"
        for is_type, prefix, module in KINDS:
            if is_type(mode) and name.startswith(prefix):
                return None if module is unsaved else module
        return None

    def of(self, module: ModuleType) -> list[procfs.Descriptor]:
        """Those of one kind; of one in flight only if it is not in a table as well."""
        return [d for d in self.open if self.kind(d) is module and not _is_known(d)]

    def add_in_flight(self, queues: unix_in_flight.Queues) -> None:
        """Of a frozen tree: what comes with the messages in its sockets, and in sockets among that."""
        self.is_frozen = True
        in_tables: dict[tuple[int, int], list[procfs.Descriptor]] = {}
        own = list(self.open)
        for d in self.open:  # which grows meanwhile
            found = queues.look(d, self.stats[d].st_ino) if self.kind(d) is sockets_unix else []
            if found and not in_tables:
                for one in own:
                    in_tables.setdefault(_file(self.stats[one]), []).append(one)
            for new in found:
                self.stats[new] = new.stat()
                new.is_open = any(_is_same(new, one) for one in in_tables.get(_file(self.stats[new]), ()))
                self.open.append(new)

    def unsaved(self, d: procfs.Descriptor) -> tuple[str, str]:
        """What one of no kind is, in words, and the way out."""
        if st.S_ISSOCK(self.stats[d].st_mode):
            return unsaved.socket(self.protocol(d), d.target)
        return unsaved.file(d.target)

    def terminals(self) -> ttys.Look:
        """Those of them as they are now; looked at once."""
        if self._terminals is None:
            self._terminals = ttys.Look(self.of(ttys), self.insiders)
        return self._terminals

    def protocol(self, d: procfs.Descriptor) -> str:
        """What the kernel calls a socket's protocol: TCP, UDPv6, UNIX, UNIX-STREAM … (net/socket.c)."""
        name = os.getxattr(d.path, "system.sockprotoname")
        return name.rstrip(b"\0").decode("ascii", "replace")


def _is_known(d: procfs.Descriptor) -> bool:
    return isinstance(d, unix_in_flight.InFlight) and d.is_open


def _file(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_dev, stat.st_ino


def _is_same(one: procfs.Descriptor, other: procfs.Descriptor) -> bool:
    """Whether both are of one open file description."""
    return bool(
        lib.lcr_syscall(
            _NR_KCMP, leader.number(one.pid), leader.number(other.pid), _KCMP_FILE, one.fd, other.fd, 0
        )
        == 0
    )


# What a process is needed for, to know it or to make it again, so that it has to be in a table as well.
_NOT_IN_FLIGHT: dict[ModuleType | None, str] = {
    epoll: "an epoll instance",
    ttys: "a terminal",
    io_uring: "an io_uring",
}


def obstacles(pids: list[int], unix_peer: str) -> list[Obstacle]:
    """Every descriptor of the tree ``pids`` that cannot be saved, by name."""
    return _obstacles(Descriptors(pids), unix_peer)


def _obstacles(table: Descriptors, unix_peer: str) -> list[Obstacle]:
    found = []
    for d in table.open:
        if _is_known(d):
            continue
        module = table.kind(d)
        if isinstance(d, unix_in_flight.InFlight) and module in _NOT_IN_FLIGHT:
            what, way_out = f"{_NOT_IN_FLIGHT[module]} cannot be saved there", "try again when it has arrived"
            found.append(Obstacle(d.where, what, way_out))
            continue
        if module is None:
            name, way_out = table.unsaved(d)
            found.append(Obstacle(d.where, f"{name} cannot be saved", way_out))
            continue
        lock = locks.obstacle(d)
        if lock:
            found.append(Obstacle(d.where, lock[0], lock[1]))
        sends = owners.obstacle(d, table.stats[d], table.insiders)
        if sends:
            found.append(sends)
        stands = None
        if module is pidfds:
            stands = pidfds.obstacle(d, table.stats[d], table.insiders)
        elif module is not io_uring:
            stands = module.obstacle(d, table.stats[d])
        if stands:
            found.append(Obstacle(d.where, stands[0], stands[1]))
    found += table.terminals().obstacles()
    found += inotify.pending(table.open)
    found += sockets_unix.obstacles(
        table.of(sockets_unix), table.stats, table.insiders, unix_peer, is_frozen=table.is_frozen
    )
    found += memfd.outsiders(table.of(memfd), table.stats, table.insiders)
    found += mqueue.obstacles(table.of(mqueue), table.stats, table.insiders)
    found += sockets_netlink.obstacles(table.of(sockets_netlink), table.insiders)
    found += sockets_inet.obstacles(table.of(sockets_inet), table.protocol, table.insiders)
    found += io_uring.obstacles(table.of(io_uring), table.insiders)
    return (
        found
        + epoll.strangers(table.of(epoll))
        + pipes.outsiders(table.of(pipes), table.stats, table.insiders)
    )


# -- saving ------------------------------------------------------------------------------------------------


def save(
    pids: list[int], keeper: files.Keeper, duplicate: Callable[[procfs.Descriptor], int], unix_peer: str
) -> tuple[dict[int, list[Descriptor]], Table]:
    """Of a frozen tree: each process's table, and what they share.

    ``duplicate``: a copy in livecr of one of the descriptors. Raises Refused for any that cannot be saved.
    """
    table = Descriptors(pids)
    with unix_in_flight.Queues() as queues:
        table.add_in_flight(queues)
        in_the_way = _obstacles(table, unix_peer)
        if in_the_way:
            raise Refused.because(in_the_way)
        return _save(table, keeper, lambda d: _duplicate(d, duplicate), queues, unix_peer)


def _duplicate(d: procfs.Descriptor, duplicate: Callable[[procfs.Descriptor], int]) -> int:
    return os.dup(d.fd) if isinstance(d, unix_in_flight.InFlight) else duplicate(d)


def _save(
    table: Descriptors,
    keeper: files.Keeper,
    duplicate: Callable[[procfs.Descriptor], int],
    queues: unix_in_flight.Queues,
    unix_peer: str,
) -> tuple[dict[int, list[Descriptor]], Table]:
    known = _Known()
    own: dict[int, list[Descriptor]] = {pid: [] for pid in table.pids}
    descriptions: list[Any] = []
    held: list[locks.Lock] = []
    owned: list[owners.Owner] = []
    leased: list[owners.Lease] = []
    indices = [(d, *known.index(d, table.stats[d])) for d in table.open]
    in_flight = {d.fd: index for d, index, _ in indices if isinstance(d, unix_in_flight.InFlight)}
    policy = (queues, in_flight, table.insiders, unix_peer)
    sockets = sockets_unix.Saver(duplicate, table.of(sockets_unix), table.stats, *policy)
    rings = io_uring.Rings()
    epolls = table.of(epoll)
    terminals, terminal = table.terminals().save()
    for d, index, is_new in indices:
        if is_new:
            module = table.kind(d)
            assert module is not None
            if module is sockets_unix:
                descriptions.append(sockets.save(d, table.stats[d]))
            elif module is io_uring:
                descriptions.append(rings.save(d))
            elif module is ttys:
                descriptions.append(terminal(d))
            elif module is epoll:
                descriptions.append(epoll.save_watched(d, epolls))
            elif module is mqueue:
                descriptions.append(mqueue.save(d, table.stats[d], table.insiders))
            else:
                descriptions.append(module.save(d.pid, d, table.stats[d], keeper))
            signalled = owners.save(d, table.stats[d], index)
            leases = owners.leases(d, table.stats[d], index)
            if isinstance(d, unix_in_flight.InFlight) and (signalled or leases):
                raise Refused(f"{d.target} sends signals (F_SETOWN, F_SETLEASE)", where=d.where)
            owned += signalled
            leased += leases
        held += (lock for lock in locks.save(d, index) if is_new or (lock.pid and lock not in held))
        if not isinstance(d, unix_in_flight.InFlight):
            close_on_exec = bool(d.flags & O_CLOEXEC)
            own[d.pid].append(Descriptor(fd=d.fd, description=index, close_on_exec=close_on_exec))
    contents = pipes.save_contents(table.of(pipes), table.stats, duplicate)
    return own, Table(
        descriptions=descriptions,
        pipes=contents,
        locks=held,
        terminals=terminals,
        signal_owners=owned,
        leases=leased,
    )


class _Known:
    """The descriptions seen so far, in the order that kcmp tells, so that thousands are sorted quickly."""

    def __init__(self) -> None:
        self._count = 0
        # By what those that are the same have alike: PIDs, descriptors and indices, all in that order.
        self._alike: dict[tuple[int, int, int, int], tuple[array[int], array[int], list[int]]] = {}

    def index(self, d: procfs.Descriptor, stat: os.stat_result) -> tuple[int, bool]:
        """The index of the description of ``d``, and whether it is a new one."""
        key = (stat.st_dev, stat.st_ino, d.pos, d.flags & ~O_CLOEXEC)
        pids, fds, indices = self._alike.setdefault(key, (array("i"), array("i"), []))
        at = -1
        if indices:
            at = lib.lcr_kcmp_find(
                ffi.from_buffer(_INTS, pids),
                ffi.from_buffer(_INTS, fds),
                len(indices),
                leader.number(d.pid),
                d.fd,
            )
        if at >= 0:
            return indices[at], False
        if at <= -lib.LCR_KCMP_FAILED:
            raise Failed(f"kcmp: {os.strerror(-lib.LCR_KCMP_FAILED - at)}", where=f"process {d.pid}")
        place, self._count = -1 - at, self._count + 1
        pids.insert(place, leader.number(d.pid))
        fds.insert(place, d.fd)
        indices.insert(place, self._count - 1)
        return self._count - 1, True
