"""The descriptor table, and the registry of the kinds of open file description that it can point to.

A description is what open(2) makes and dup(2) shares; two descriptors that share one do so after a restore.
Relies on /proc/PID/fd, fdinfo, and kcmp(2) with KCMP_FILE. A new kind is a new file here and a line in KINDS.
"""

from __future__ import annotations

import os
import stat as st

from livecr._native import lib
from livecr.errors import Failed, Obstacle, Refused
from livecr.image.record import Record
from livecr.kernel import procfs
from livecr.kinds import (
    devices,
    epoll,
    eventfd,
    files,
    inotify,
    locks,
    memfd,
    pipes,
    signalfd,
    sockets_inet,
    sockets_unix,
    timerfd,
)
from livecr.target.program import Program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

    from livecr.image.integrity import NewImage
    from livecr.target.spawn import Seed
    from livecr.waits.clocks import ProgramTime

__all__ = ["Description", "Descriptor", "Descriptors", "Table", "arm_timers", "load", "obstacles", "save"]

Description = (
    files.File
    | files.Directory
    | devices.Device
    | pipes.Pipe
    | pipes.Fifo
    | eventfd.EventFd
    | sockets_unix.UnixSocket
    | memfd.MemFd
    | sockets_inet.InetSocket
    | epoll.Epoll
    | timerfd.TimerFd
    | signalfd.SignalFd
    | inotify.Inotify
)

NR_KCMP, KCMP_FILE = 312, 0
KCMP_EQUAL, KCMP_LESS, KCMP_GREATER = 0, 1, 2
F_DUPFD_CLOEXEC, F_SETFD = 1030, 2
O_CLOEXEC, O_ASYNC = os.O_CLOEXEC, 0o20000
_LATER = -1  # made when there is a process to make it in

# How a kind is known: by the type in st_mode, and what the link of /proc/PID/fd starts with; of a socket,
# which the link only numbers, "socket:" and its protocol.
KINDS: tuple[tuple[Callable[[int], bool], str, ModuleType], ...] = (
    (st.S_ISREG, "/memfd:", memfd),
    (st.S_ISREG, "/", files),
    (st.S_ISDIR, "/", files),
    (st.S_ISCHR, "/dev/", devices),
    (st.S_ISFIFO, "", pipes),
    (lambda mode: not st.S_IFMT(mode), "anon_inode:[eventfd]", eventfd),
    (st.S_ISSOCK, "socket:UNIX", sockets_unix),
    (st.S_ISSOCK, "socket:TCP", sockets_inet),
    (st.S_ISSOCK, "socket:UDP", sockets_inet),
    (lambda mode: not st.S_IFMT(mode), "anon_inode:[eventpoll]", epoll),
    (lambda mode: not st.S_IFMT(mode), "anon_inode:[timerfd]", timerfd),
    (lambda mode: not st.S_IFMT(mode), "anon_inode:[signalfd]", signalfd),
    (lambda mode: not st.S_IFMT(mode), "anon_inode:inotify", inotify),
)


class Descriptor(Record):
    """One entry of the table: ``description`` is an index."""

    fd: int
    description: int
    close_on_exec: bool


class Table(Record):
    """All descriptors of a process, the descriptions behind them, and what is in its pipes."""

    descriptors: list[Descriptor]
    descriptions: list[Description]
    pipes: list[pipes.Contents]
    locks: list[locks.Lock]


class Descriptors:
    """The open descriptors of a process as they are now, each with its stat."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.open = procfs.descriptors(pid)
        self.stats = {d.fd: os.stat(f"/proc/{pid}/fd/{d.fd}") for d in self.open}

    def kind(self, d: procfs.Descriptor) -> ModuleType | None:
        """The module that saves this one, or None."""
        mode = self.stats[d.fd].st_mode
        name = f"socket:{self.protocol(d)}" if st.S_ISSOCK(mode) else d.target
        for is_type, prefix, module in KINDS:
            if is_type(mode) and name.startswith(prefix):
                return module
        return None

    def protocol(self, d: procfs.Descriptor) -> str:
        """What the kernel calls a socket's protocol: TCP, UDPv6, UNIX, UNIX-STREAM … (net/socket.c)."""
        name = os.getxattr(f"/proc/{self.pid}/fd/{d.fd}", "system.sockprotoname")
        return name.rstrip(b"\0").decode("ascii", "replace")


def _name(d: procfs.Descriptor) -> str:
    for prefix, name in (
        ("socket:", "a socket"),
        ("anon_inode:[eventpoll]", "an epoll instance"),
        ("anon_inode:inotify", "an inotify instance"),
        ("anon_inode:", "a " + d.target.removeprefix("anon_inode:").strip("[]")),
        ("/memfd:", "a memfd"),
        ("/dev/pts/", "a terminal"),
        ("/dev/tty", "a terminal"),
        ("/dev/", "a device"),
    ):
        if d.target.startswith(prefix):
            return f"{name} ({d.target})"
    return d.target


def obstacles(pid: int) -> list[Obstacle]:
    """Every descriptor that cannot be saved, by name."""
    table = Descriptors(pid)
    found = []
    for d in table.open:
        task = f"process {pid}, descriptor {d.fd}"
        module = table.kind(d)
        if module is None:
            found.append(
                Obstacle(
                    task, f"{_name(d)} cannot be saved", "this version of livecr does not know this kind"
                )
            )
            continue
        lock = locks.obstacle(d)
        if lock:
            found.append(Obstacle(task, lock[0], lock[1]))
        if d.flags & O_ASYNC:
            found.append(
                Obstacle(task, f"{d.target} sends signals (O_ASYNC)", "this version cannot restore that")
            )
        what = module.obstacle(d, table.stats[d.fd])
        if what:
            found.append(Obstacle(task, what[0], what[1]))
    found += inotify.pending(pid, table.open)
    unix = [d for d in table.open if table.kind(d) is sockets_unix]
    found += sockets_unix.obstacles(pid, unix, table.stats)
    found += memfd.outsiders(pid, [d for d in table.open if table.kind(d) is memfd], table.stats)
    inet = [d for d in table.open if table.kind(d) is sockets_inet]
    found += sockets_inet.obstacles(pid, inet, table.protocol)
    return found + epoll.strangers(pid, table.open) + pipes.outsiders(pid, table.open, table.stats)


# -- saving ------------------------------------------------------------------------------------------------


def save(pid: int, image: NewImage, duplicate: Callable[[int], int]) -> Table:
    """Of a frozen process. ``duplicate``: a copy in livecr of one of its descriptors (pidfd_getfd).

    Raises Refused for any that cannot be saved.
    """
    in_the_way = obstacles(pid)
    if in_the_way:
        raise Refused.because(in_the_way)
    table = Descriptors(pid)
    descriptions: list[Any] = []
    first_fd: list[int] = []
    alike: dict[tuple[int, int, int, int], list[int]] = {}
    descriptors = []
    held: list[locks.Lock] = []
    keeper = files.Keeper(image)
    sockets = sockets_unix.Saver(pid, duplicate)
    for d in table.open:
        stat = table.stats[d.fd]
        candidates = alike.setdefault((stat.st_dev, stat.st_ino, d.pos, d.flags & ~O_CLOEXEC), [])
        place, known = _find(pid, candidates, first_fd, d.fd)
        if known:
            index = candidates[place]
        else:
            module = table.kind(d)
            assert module is not None
            index = len(descriptions)
            if module is sockets_unix:
                descriptions.append(sockets.save(d, stat))
            else:
                descriptions.append(module.save(pid, d, stat, keeper))
            first_fd.append(d.fd)
            candidates.insert(place, index)
            held += locks.save(d, index)
        descriptors.append(Descriptor(fd=d.fd, description=index, close_on_exec=bool(d.flags & O_CLOEXEC)))
    return Table(
        descriptors=descriptors,
        descriptions=descriptions,
        pipes=pipes.save_contents(pid, table.open, table.stats, duplicate),
        locks=held,
    )


def _find(pid: int, ascending: list[int], first_fd: list[int], fd: int) -> tuple[int, bool]:
    """Where ``fd`` belongs among descriptions in the kernel's order, and whether the one there is its own.

    kcmp tells which of two comes first, so that thousands of descriptors are sorted without comparing all.
    """
    low, high = 0, len(ascending)
    while low < high:
        middle = (low + high) // 2
        result = lib.lcr_syscall(NR_KCMP, pid, pid, KCMP_FILE, first_fd[ascending[middle]], fd, 0)
        if result == KCMP_EQUAL:
            return middle, True
        if result == KCMP_LESS:
            low = middle + 1
        elif result == KCMP_GREATER:
            high = middle
        else:
            error = os.strerror(-result) if result < 0 else "it tells no order"
            raise Failed(f"kcmp: {error}", where=f"process {pid}")
    return low, False


# -- loading -----------------------------------------------------------------------------------------------


class Opened:
    """The descriptions made anew, in livecr: ``fds[i]`` for description i. Closes them on exit."""

    def __init__(self, table: Table, image_directory: str) -> None:
        self._table = table
        self.fds: list[int] = []
        made = pipes.Made(table.pipes)
        keeper = files.Reopener(image_directory)
        memfds = memfd.Remaker(image_directory)
        loaders: dict[str, Callable[[Any], int]] = {
            "File": keeper.load,
            "Directory": files.load_directory,
            "Device": devices.load,
            "Pipe": made.load,
            "Fifo": made.load_fifo,
            "EventFd": eventfd.load,
            "UnixSocket": lambda _: _LATER,
            "MemFd": memfds.load,
            "InetSocket": sockets_inet.load,
            "Epoll": epoll.load,
            "TimerFd": timerfd.load,
            "SignalFd": signalfd.load,
            "Inotify": inotify.load,
        }
        try:
            for description in table.descriptions:
                self.fds.append(loaders[type(description).__name__](description))
            made.fill()
            for lock in table.locks:
                locks.load_of_description(lock, self.fds[lock.description])
        except BaseException:
            self.close()
            raise
        finally:
            made.close()
            keeper.close()
            memfds.close()

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close livecr's own."""
        for fd in self.fds:
            if fd != _LATER:
                os.close(fd)
        self.fds = []

    def finish(self, seed: Seed) -> None:
        """Make what only the process itself can make. It has no descriptor open before or after."""
        places = [i for i, fd in enumerate(self.fds) if fd == _LATER]
        if places:
            from livecr.kinds import sockets_unix_made

            made = sockets_unix_made.make([self._table.descriptions[i] for i in places], seed)  # type: ignore[misc]
            for i, fd in zip(places, made, strict=True):
                self.fds[i] = fd


def load(table: Table, opened: Opened, seed: Seed) -> None:
    """Put every description under its numbers. The seed has no descriptor open when this begins."""
    opened.finish(seed)
    wanted = {d.fd for d in table.descriptors}
    spare = next(number for number in range(len(wanted) + 1) if number not in wanted)
    asking = Program()
    asking.add("pidfd_open", os.getpid(), 0)
    (ours,) = seed.run(asking)
    if ours != spare:
        moving = Program()
        moving.add("dup3", ours, spare, O_CLOEXEC)
        moving.add("close", ours)
        seed.run(moving)
    for d in table.descriptors:
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
    places = {d.description: d.fd for d in table.descriptors}
    for index, description in enumerate(table.descriptions):
        if isinstance(description, epoll.Epoll):
            epoll.add_items(description, places[index], seed)
    owned = [(lock, places[lock.description]) for lock in table.locks if lock.kind == "posix"]
    locks.load_of_process(owned, opened.fds, seed)
    for description, fd in zip(table.descriptions, opened.fds, strict=True):
        if isinstance(description, inotify.Inotify):
            inotify.drain(fd)


def arm_timers(table: Table, opened: Opened, now: ProgramTime) -> None:
    """Let the timerfds run again, as late as can be."""
    for description, fd in zip(table.descriptions, opened.fds, strict=True):
        if isinstance(description, timerfd.TimerFd):
            timerfd.arm(description, fd, now)
