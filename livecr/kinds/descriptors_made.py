"""Descriptor tables made anew: first the descriptions, then each process's numbers for them.

livecr makes most descriptions itself and hands them over by pidfd_getfd(2), which each half-built process
calls on livecr; what belongs to a process (epoll items, locks, owners, io_urings) is set in there. Called by
restore.
"""

from __future__ import annotations

import os

from livecr.errors import BadImage
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
)
from livecr.target.program import Program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from livecr.kinds.descriptors import Descriptor, Table
    from livecr.kinds.io_uring_made import Instances
    from livecr.kinds.memory import Vma
    from livecr.kinds.ttys_made import Made as Terminals
    from livecr.target.spawn import Seed
    from livecr.target.tracee import Tracee
    from livecr.waits.clocks import ProgramTime

__all__ = ["Opened", "arm_timers", "finish_rings", "load", "set_owners"]

F_SETFD = 2
O_CLOEXEC = os.O_CLOEXEC
_LATER = -1  # made when there is a process to make it in


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

    def leave_to_program(self) -> None:
        """Close those that the program has now: an end of a pipe that livecr has too is not seen closed."""
        for fd in self.fds:
            if fd != _LATER:
                os.close(fd)
        for fd in self.unlinked:
            os.close(fd)
        self.fds, self.unlinked = [], []

    def close(self) -> None:
        """Close livecr's own."""
        self.leave_to_program()
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
