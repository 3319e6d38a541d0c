"""epoll(7): an instance and the descriptors that it watches, each with its events and its data.

Relies on the tfd lines of fdinfo and on kcmp(2) with KCMP_EPOLL_TFD. An item belongs to a file *and* to the
number under which it was added, so items are added in the target, when all its descriptors are in place.
Called by descriptors.
"""

from __future__ import annotations

import os

from livecr._native import ffi, lib
from livecr.errors import Failed, Obstacle
from livecr.image.record import Record
from livecr.kernel import leader, procfs
from livecr.target.program import Program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.target.spawn import Seed

__all__ = ["Epoll", "Item", "add_items", "load", "obstacle", "save_watched", "strangers"]

NR_EPOLL_CREATE1, NR_KCMP = 291, 312
KCMP_FILE, KCMP_EPOLL_TFD = 0, 7
EPOLL_CTL_ADD, EPOLL_CTL_MOD = 1, 3
EPOLLIN, EPOLLPRI, EPOLLOUT, EPOLLRDHUP = 1, 2, 4, 0x2000
# EPOLLEXCLUSIVE, EPOLLWAKEUP, EPOLLONESHOT, EPOLLET: how to tell, not what (fs/eventpoll.c, EP_PRIVATE_BITS).
_HOW = 1 << 28 | 1 << 29 | 1 << 30 | 1 << 31
_ITEMS_AT_ONCE = 1000
_EVENT_BYTES = 12  # struct epoll_event, packed on x86-64


class Item(Record):
    """``fd``: the number it watches; ``events``: EPOLL*; ``data``: 64 bits that epoll_wait gives back."""

    fd: int
    events: int
    data: int


class Epoll(Record, tag="epoll"):
    """``pid``: a process in which the numbers are right; ``flags``: O_NONBLOCK or 0."""

    pid: int
    flags: int
    items: list[Item]


def obstacle(d: procfs.Descriptor, stat: os.stat_result) -> tuple[str, str] | None:
    """Of the instance itself nothing stands in the way; see ``strangers`` for what it watches."""
    return None


def strangers(instances: list[procfs.Descriptor]) -> list[Obstacle]:
    """Items whose number now stands for nothing or for another file: that file cannot be found any more.

    ``instances``: every descriptor of an epoll instance in the tree.
    """
    found = []
    for d in instances:
        numbers = _strange(d)
        if numbers and _knows_all(d, instances) is None:
            found += [
                Obstacle(
                    d.where,
                    f"the epoll instance watches a file that was descriptor {fd} and is not any more",
                    "let the program remove a descriptor from the epoll instance before it closes it",
                )
                for fd in numbers
            ]
    return found


def _knows_all(d: procfs.Descriptor, instances: list[procfs.Descriptor]) -> procfs.Descriptor | None:
    """A descriptor of the same instance in a process in which every number still stands for its file."""
    for other in instances:
        is_same = (
            lib.lcr_syscall(
                NR_KCMP, leader.number(d.pid), leader.number(other.pid), KCMP_FILE, d.fd, other.fd, 0
            )
            == 0
        )
        if is_same and not _strange(other):
            return other
    return None


def _strange(d: procfs.Descriptor) -> list[int]:
    seen: dict[int, int] = {}
    found = []
    for item in _items(d.lines):
        nth = seen.get(item.fd, 0)  # two files can have been added under one number
        seen[item.fd] = nth + 1
        slot = ffi.new("uint32_t[3]", [d.fd, item.fd, nth])  # struct kcmp_epoll_slot
        at = int(ffi.cast("uintptr_t", slot))
        if lib.lcr_syscall(NR_KCMP, *(leader.number(d.pid),) * 2, KCMP_EPOLL_TFD, item.fd, at, 0) != 0:
            found.append(item.fd)
    if found:
        # Of a program that runs: is it still so, or was the item removed meanwhile?
        watched = [i.fd for now in procfs.descriptors(d.pid) if now.fd == d.fd for i in _items(now.lines)]
        found = [fd for fd in found if fd in watched]
    return found


def _items(lines: list[str]) -> list[Item]:
    """Of ``tfd: 4 events: 19 data: 4  pos:0 ino:40e sdev:10``; the two in the middle are hexadecimal."""
    found = []
    for line in lines:
        if line.startswith("tfd:"):
            words = line.split()
            found.append(Item(fd=int(words[1]), events=int(words[3], 16), data=int(words[5], 16)))
    return found


def save_watched(d: procfs.Descriptor, instances: list[procfs.Descriptor]) -> Epoll:
    """Nothing is consumed. ``instances``: every descriptor of an epoll instance in the tree."""
    where = _knows_all(d, instances) or d
    return Epoll(pid=where.pid, flags=d.flags & os.O_NONBLOCK, items=_items(d.lines))


# -- loading -----------------------------------------------------------------------------------------------


def load(record: Epoll) -> int:
    """A new instance that watches nothing yet."""
    fd: int = lib.lcr_syscall(NR_EPOLL_CREATE1, os.O_CLOEXEC, 0, 0, 0, 0, 0)
    if fd < 0:
        raise Failed(f"epoll_create1: {os.strerror(-fd)}")
    if record.flags & os.O_NONBLOCK:
        os.set_blocking(fd, False)
    return fd


def add_items(record: Epoll, epfd: int, seed: Seed) -> None:
    """Make instance ``epfd`` of the target watch what it watched; all descriptors are in place.

    An item that is ready when it is added is told once, also with EPOLLET. Whether the program has been told
    already, the kernel does not say; epoll(7) lets more than one event be told for one change, but none be
    lost.
    """
    # First, because of the epoll_wait: it must not be told of any other item.
    for item in record.items:
        if not item.events & ~_HOW:
            _add_disabled(item, epfd, seed)
    enabled = [item for item in record.items if item.events & ~_HOW]
    for start in range(0, len(enabled), _ITEMS_AT_ONCE):
        program = Program()
        for item in enabled[start : start + _ITEMS_AT_ONCE]:
            at = seed.put(_event(item.events, item.data))
            program.add("epoll_ctl", epfd, EPOLL_CTL_ADD, item.fd, at)
        seed.run(program)


def _add_disabled(item: Item, epfd: int, seed: Seed) -> None:
    """EPOLLONESHOT, and its shot is fired. epoll_ctl cannot say that: it always adds EPOLLERR and EPOLLHUP.

    So the shot is fired again if the file is ready for anything at all. If it is not, an error or a hang-up
    that comes later is told to the program once; neither has happened yet.
    """
    anything = item.events | EPOLLIN | EPOLLPRI | EPOLLOUT | EPOLLRDHUP
    program = Program()
    program.add("epoll_ctl", epfd, EPOLL_CTL_ADD, item.fd, seed.put(_event(anything, item.data)))
    program.add("epoll_wait", epfd, seed.room(_EVENT_BYTES), 1, 0)
    _, told = seed.run(program)
    if not told:
        program = Program()
        at = seed.put(_event(item.events, item.data))
        program.add("epoll_ctl", epfd, EPOLL_CTL_MOD, item.fd, at)
        seed.run(program)


def _event(events: int, data: int) -> bytes:
    return events.to_bytes(4, "little") + data.to_bytes(8, "little")
