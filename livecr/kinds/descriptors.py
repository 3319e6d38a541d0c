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
from livecr.kinds import devices, eventfd, files, pipes
from livecr.target.program import Program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

    from livecr.image.integrity import NewImage
    from livecr.target.spawn import Seed

__all__ = ["Description", "Descriptor", "Descriptors", "Table", "load", "obstacles", "save"]

Description = files.File | files.Directory | devices.Device | pipes.Pipe | pipes.Fifo | eventfd.EventFd

NR_KCMP, KCMP_FILE = 312, 0
F_DUPFD_CLOEXEC, F_SETFD = 1030, 2
O_CLOEXEC, O_ASYNC = os.O_CLOEXEC, 0o20000

# How a kind is known: by the type in st_mode, and what the link of /proc/PID/fd starts with.
KINDS: tuple[tuple[Callable[[int], bool], str, ModuleType], ...] = (
    (st.S_ISREG, "/", files),
    (st.S_ISDIR, "/", files),
    (st.S_ISCHR, "/dev/", devices),
    (st.S_ISFIFO, "", pipes),
    (lambda mode: not st.S_IFMT(mode), "anon_inode:[eventfd]", eventfd),
)


class Descriptor(Record):
    """One entry of the table: ``description`` is an index."""

    fd: int
    description: int
    close_on_exec: bool


class Table(Record):
    """All descriptors of a process, the descriptions behind them, and what is in its pipes."""

    descriptors: list[Descriptor]
    descriptions: list[
        files.File | files.Directory | devices.Device | pipes.Pipe | pipes.Fifo | eventfd.EventFd
    ]
    pipes: list[pipes.Contents]


class Descriptors:
    """The open descriptors of a process as they are now, each with its stat."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.open = procfs.descriptors(pid)
        self.stats = {d.fd: os.stat(f"/proc/{pid}/fd/{d.fd}") for d in self.open}

    def kind(self, d: procfs.Descriptor) -> ModuleType | None:
        """The module that saves this one, or None."""
        mode = self.stats[d.fd].st_mode
        for is_type, prefix, module in KINDS:
            if is_type(mode) and d.target.startswith(prefix):
                return module
        return None


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
        if any(line.startswith("lock:") for line in d.lines):
            found.append(
                Obstacle(
                    task,
                    f"a lock is held on {d.target}",
                    "this version of livecr does not restore file locks",
                )
            )
        if d.flags & O_ASYNC:
            found.append(
                Obstacle(task, f"{d.target} sends signals (O_ASYNC)", "this version cannot restore that")
            )
        what = module.obstacle(d, table.stats[d.fd])
        if what:
            found.append(Obstacle(task, what[0], what[1]))
    return found + pipes.outsiders(pid, table.open, table.stats)


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
    keeper = files.Keeper(image)
    for d in table.open:
        stat = table.stats[d.fd]
        candidates = alike.setdefault((stat.st_dev, stat.st_ino, d.pos, d.flags & ~O_CLOEXEC), [])
        index = next((i for i in candidates if _same(pid, first_fd[i], d.fd)), -1)
        if index < 0:
            module = table.kind(d)
            assert module is not None
            index = len(descriptions)
            descriptions.append(module.save(pid, d, stat, keeper))
            first_fd.append(d.fd)
            candidates.append(index)
        descriptors.append(Descriptor(fd=d.fd, description=index, close_on_exec=bool(d.flags & O_CLOEXEC)))
    return Table(
        descriptors=descriptors,
        descriptions=descriptions,
        pipes=pipes.save_contents(pid, table.open, table.stats, duplicate),
    )


def _same(pid: int, one: int, other: int) -> bool:
    result = lib.lcr_syscall(NR_KCMP, pid, pid, KCMP_FILE, one, other, 0)
    if result < 0:
        raise Failed(f"kcmp: {os.strerror(-result)}", where=f"process {pid}")
    return bool(result == 0)


# -- loading -----------------------------------------------------------------------------------------------


class Opened:
    """The descriptions made anew, in livecr: ``fds[i]`` for description i. Closes them on exit."""

    def __init__(self, table: Table, image_directory: str) -> None:
        self._table = table
        self.fds: list[int] = []
        made = pipes.Made(table.pipes)
        keeper = files.Reopener(image_directory)
        loaders: dict[str, Callable[[Any], int]] = {
            "File": keeper.load,
            "Directory": files.load_directory,
            "Device": devices.load,
            "Pipe": made.load,
            "Fifo": made.load_fifo,
            "EventFd": eventfd.load,
        }
        try:
            for description in table.descriptions:
                self.fds.append(loaders[type(description).__name__](description))
            made.fill()
        except BaseException:
            self.close()
            raise
        finally:
            made.close()
            keeper.close()

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close livecr's own."""
        for fd in self.fds:
            os.close(fd)
        self.fds = []


def load(table: Table, opened: Opened, seed: Seed) -> None:
    """Put every description under its numbers. The seed has no descriptor open when this begins."""
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
    done: set[int] = set()
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
        done.add(d.fd)
    closing = Program()
    closing.add("close", spare)
    seed.run(closing)
