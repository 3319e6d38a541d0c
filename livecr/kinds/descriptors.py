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
from livecr.errors import BadImage, Failed, Obstacle, Refused
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
from livecr.target.program import Program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

    from livecr.kinds.io_uring_made import Instances
    from livecr.kinds.memory import Vma
    from livecr.kinds.ttys_made import Made as Terminals
    from livecr.target.spawn import Seed
    from livecr.target.tracee import Tracee
    from livecr.waits.clocks import ProgramTime

__all__ = ["Description", "Descriptor", "Descriptors", "Table", "arm_timers", "load", "obstacles", "save"]

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
F_DUPFD_CLOEXEC, F_SETFD = 1030, 2
O_CLOEXEC = os.O_CLOEXEC
_NR_KCMP, _KCMP_FILE = 312, 0
_LATER = -1  # made when there is a process to make it in

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


# -- loading -----------------------------------------------------------------------------------------------


class Opened:
    """The descriptions made anew, in livecr: ``fds[i]`` for description i. Closes them on exit.

    ``unlinked[i]``: of each file that no name leads to and that is mapped, one for reading.
    """

    def __init__(
        self,
        table: Table,
        mapped: list[files.File | memfd.MemFd],
        removed: list[directories.Removed],
        image_directory: str,
        *,
        at_terminal: bool,
        file_policy: str,
    ) -> None:
        """``at_terminal``: the caller cares for a program that was at a terminal (tty_seat.Seat).

        ``file_policy``: one of files.POLICIES.
        """
        self._table = table
        self.fds: list[int] = []
        self.unlinked: list[int] = []
        self.rings: Instances | None = None
        self.terminals: Terminals | None = None
        if table.terminals or any(isinstance(one, ttys.Tty | ttys.PtyMaster) for one in table.descriptions):
            from livecr.kinds import ttys_made

            self.terminals = ttys_made.Made(table.terminals, list(table.descriptions), at_terminal)
        made = pipes.Made(table.pipes)
        self.directories = directories.Remaker(removed)
        keeper = files.Reopener(image_directory, file_policy)
        memfds = self._memfds = memfd.Remaker(image_directory)
        queues = mqueue.Remaker()
        loaders: dict[str, Callable[[Any], int]] = {
            "File": keeper.load,
            "Directory": self.directories.load,
            "Device": devices.load,
            "Pipe": made.load,
            "Fifo": made.load_fifo,
            "EventFd": eventfd.load,
            "UnixSocket": lambda _: _LATER,
            "MemFd": memfds.load,
            "MessageQueue": queues.load,
            "InetSocket": sockets_inet.load,
            "NetlinkSocket": sockets_netlink.load,
            "Epoll": epoll.load,
            "TimerFd": timerfd.load,
            "SignalFd": signalfd.load,
            "Inotify": inotify.load,
            "IoUring": lambda _: _LATER,
            "PidFd": lambda _: _LATER,
            "PathOnly": paths.load,
            "Tty": self._load_tty,
            "PtyMaster": lambda record: self._terminals().load_master(record),
        }
        try:
            for description in table.descriptions:
                self.fds.append(loaders[type(description).__name__](description))
            for file in mapped:
                self.unlinked.append(loaders[type(file).__name__](file))
            made.fill()
            if self.terminals:
                self.terminals.fill()
            for lock in table.locks:
                locks.load_of_description(lock, self.fds[lock.description])
        except BaseException:
            self.close()
            raise
        finally:
            made.close()
            keeper.close()
            queues.close()

    def _terminals(self) -> Terminals:
        assert self.terminals is not None
        return self.terminals

    def _load_tty(self, record: ttys.Tty) -> int:
        fd = self._terminals().load(record)
        return _LATER if fd is None else fd

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close livecr's own."""
        for fd in self.fds:
            if fd != _LATER:
                os.close(fd)
        for fd in self.unlinked:
            os.close(fd)
        self.fds, self.unlinked = [], []
        self._memfds.close()
        self.directories.close()
        if self.terminals:
            self.terminals.close()

    def all_mapped(self) -> None:
        """Every mapping of these files is made, and none has to be any more."""
        self._memfds.seal()

    def begin_session(self, pid: int, seed: Seed) -> None:
        """Process ``pid`` has just begun a session, and has no children in it yet."""
        if self.terminals:
            self.terminals.begin_session(pid, seed)

    def finish(self, seeds: dict[int, Seed], ended: set[int]) -> None:
        """Make what only the processes themselves can make. They have no descriptor open before or after.

        ``ended``: PIDs of those that have ended, and that nobody has waited for.
        """
        rings = [i for i, d in enumerate(self._table.descriptions) if isinstance(d, io_uring.IoUring)]
        if rings:
            from livecr.kinds.io_uring_made import Instances

            self.rings = Instances()
            for i in rings:
                self.fds[i] = self.rings.make(self._table.descriptions[i], seeds)  # type: ignore[arg-type]
        later = [i for i, fd in enumerate(self.fds) if fd == _LATER]
        records = self._table.descriptions
        sockets = {i: one for i in later if isinstance(one := records[i], sockets_unix.UnixSocket)}
        if not sockets:
            self._make_later(later, seeds, ended)
            return
        from livecr.kinds import sockets_unix_made

        made = sockets_unix_made.Made(list(sockets.values()), seeds)
        try:
            made.make()
            self._make_later(later, seeds, ended)
            # Any of the others may be in flight in them.
            there = {i: fd for i, fd in enumerate(self.fds) if fd != _LATER}
            made.fill(there | made.numbers(sockets))
            for i, socket in sockets.items():
                self.fds[i] = made.take(socket.inode)
        finally:
            made.close()

    def _make_later(self, later: list[int], seeds: dict[int, Seed], ended: set[int]) -> None:
        """pidfds and terminals."""
        records = self._table.descriptions
        gone = pidfds.Gone()
        try:
            for i in later:
                if isinstance(one := records[i], pidfds.PidFd):
                    self.fds[i] = pidfds.load(one, gone, {*seeds, *ended})
        finally:
            gone.close()
        if self.terminals:
            self.terminals.settle(seeds)
            for i in later:
                if isinstance(one := records[i], ttys.Tty):
                    self.fds[i] = self.terminals.load_by_process(one, seeds)
            self.terminals.finish()


def load(
    table: Table,
    own: dict[int, list[Descriptor]],
    opened: Opened,
    seeds: dict[int, Seed],
    ended: set[int],
) -> None:
    """Put every description under its numbers. No seed has a descriptor open when this begins.

    ``own``: by PID in the image, as are ``seeds``, the descriptors of each process that has its own table.
    """
    opened.finish(seeds, ended)
    for pid, descriptors in own.items():
        _place(descriptors, opened, seeds[pid])
    places = {(pid, d.description): d.fd for pid, descriptors in own.items() for d in descriptors}
    for index, description in enumerate(table.descriptions):
        if isinstance(description, epoll.Epoll):
            epoll.add_items(description, places[description.pid, index], seeds[description.pid])
    for lock in table.locks:
        if lock.kind == "posix":
            fd = places[lock.pid, lock.description]
            locks.load_of_process(lock, fd, opened.fds[lock.description], seeds[lock.pid])
    for description, fd in zip(table.descriptions, opened.fds, strict=True):
        if isinstance(description, inotify.Inotify):
            inotify.drain(fd)
    _register(table, places, opened, seeds)


def _register(
    table: Table, places: dict[tuple[int, int], int], opened: Opened, seeds: dict[int, Seed]
) -> None:
    """The notifications of message queues, each by a descriptor that its process has of the queue."""
    tables = {pid for pid, _ in places}
    done = set()
    for index, description in enumerate(table.descriptions):
        if not isinstance(description, mqueue.MessageQueue) or description.notification is None:
            continue
        pid = description.notification.pid
        # Whose table is not its own has it in common with another process.
        holders = {pid} if pid in tables else tables
        fds = [fd for (holder, i), fd in places.items() if i == index and holder in holders]
        if fds and description.inode not in done:
            done.add(description.inode)
            sockets = {
                other.inode: fd
                for (holder, i), fd in places.items()
                if holder in holders
                and isinstance(other := table.descriptions[i], sockets_netlink.NetlinkSocket)
            }
            mqueue.register(description, opened.fds[index], fds[0], sockets, seeds[pid])


def _place(descriptors: list[Descriptor], opened: Opened, seed: Seed) -> None:
    """Fill the table of one process."""
    wanted = {d.fd for d in descriptors}
    spare = next(number for number in range(len(wanted) + 1) if number not in wanted)
    asking = Program()
    asking.add("pidfd_open", os.getpid(), 0)
    (ours,) = seed.run(asking)
    if ours != spare:
        moving = Program()
        moving.add("dup3", ours, spare, O_CLOEXEC)
        moving.add("close", ours)
        seed.run(moving)
    for d in descriptors:
        fetching = Program()
        fetching.add("pidfd_getfd", spare, opened.fds[d.description], 0)
        (got,) = seed.run(fetching)
        placing = Program()
        if got == d.fd:
            placing.add("fcntl", got, F_SETFD, int(d.close_on_exec))
        else:
            placing.add("dup3", got, d.fd, O_CLOEXEC if d.close_on_exec else 0)
            placing.add("close", got)
        seed.run(placing)
    closing = Program()
    closing.add("close", spare)
    seed.run(closing)


def finish_rings(
    table: Table,
    own: dict[int, list[Descriptor]],
    opened: Opened,
    vmas: dict[int, list[Vma]],
    seeds: dict[int, Seed],
    tasks: dict[int, Tracee],
) -> None:
    """Make the io_urings what they were, when all tasks are there. ``own``, ``vmas``, ``seeds``: by PID."""
    rings = {pid: [vma for vma in of_one if vma.kind == "io_uring"] for pid, of_one in vmas.items()}
    places: dict[tuple[int, int], io_uring.IoUring] = {}
    for pid, descriptors in own.items():
        for d in descriptors:
            description = table.descriptions[d.description]
            if isinstance(description, io_uring.IoUring):
                places[pid, d.fd] = description
    if opened.rings is not None:
        opened.rings.finish(places, rings, seeds, tasks)
    elif any(rings.values()):
        raise BadImage("a mapping is of an io_uring that is not there", where="the image")


def set_owners(
    table: Table,
    own: dict[int, list[Descriptor]],
    opened: Opened,
    seeds: dict[int, Seed],
    numbers: set[int],
) -> None:
    """Leases, and who gets the signals of what is open; all tasks are there. ``own``: by PID.

    ``numbers``: all PIDs, TIDs and process groups of the program.
    """
    places: dict[int, tuple[int, int]] = {}  # description -> the first that has it, and its number there
    for pid, descriptors in own.items():
        for d in descriptors:
            places.setdefault(d.description, (pid, d.fd))
    for lease in table.leases:
        pid, fd = places[lease.description]
        owners.load_lease(lease, opened.fds[lease.description], fd, seeds[pid])
    for owner in table.signal_owners:
        pid, fd = places[owner.description]
        owners.load(owner, opened.fds[owner.description], fd, seeds[pid], numbers)


def arm_timers(table: Table, opened: Opened, now: ProgramTime) -> None:
    """Let the timerfds run again, as late as can be."""
    for description, fd in zip(table.descriptions, opened.fds, strict=True):
        if isinstance(description, timerfd.TimerFd):
            timerfd.arm(description, fd, now)
