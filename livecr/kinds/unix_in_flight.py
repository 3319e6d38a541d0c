"""What lies in the unix sockets of a frozen tree: their messages, and the descriptors in flight in these.

A look at a message (MSG_PEEK) gives livecr a descriptor of each open file description that comes with it,
also if nobody else has it open; so it is described like any other. Sockets in flight may hold others in turn,
or themselves. Called by descriptors.
"""

from __future__ import annotations

import os
from contextlib import suppress

from livecr.errors import Refused
from livecr.kernel import procfs, sock_diag
from livecr.kernel.bpf import Unavailable
from livecr.kernel.pidfd import Duplicate
from livecr.kinds import unix_queues

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.kernel.sock_diag import UnixSocket as Told
    from livecr.kernel.unix_backlog import Connection

__all__ = ["InFlight", "Queues", "has_error"]

_SOCK_STREAM, _RCV_SHUTDOWN = 1, 1


class InFlight(procfs.Descriptor):
    """livecr's own descriptor of what comes with a message. ``is_open``: some process of the tree has the
    same description in its table; ``socket``: the one in which it waits, in words."""

    __slots__ = ("is_open", "socket")

    def __init__(self, fd: int, socket: str) -> None:
        own = procfs.descriptor(os.getpid(), fd)
        super().__init__(own.pid, fd, own.target, own.pos, own.flags, own.mount, own.lines)
        self.socket = socket
        self.is_open = False

    @property
    def where(self) -> str:
        """As errors name it."""
        return f"in flight in {self.socket}"


class Queues:
    """By inode number, of a frozen tree. Closes livecr's descriptors on exit."""

    def __init__(self) -> None:
        self.told: dict[int, Told] = {}  # all unix sockets, once one has been looked at
        self._queues: dict[int, list[unix_queues.Peeked]] = {}
        self._backlogs: dict[int, list[Connection]] = {}

    def __enter__(self) -> Queues:
        return self

    def __exit__(self, *exc: object) -> None:
        for queue in self._queues.values():
            for message in queue:
                message.close()

    def look(self, d: procfs.Descriptor, inode: int) -> list[InFlight]:
        """What is in flight in one socket: [] if it has been looked at before. Raises Refused."""
        if not self.told:
            self.told = sock_diag.unix_sockets()
        one = self.told.get(inode)
        if one is None or inode in self._queues:  # of another network namespace: an obstacle of its own
            return []
        self._queues[inode] = []
        if one.state == sock_diag.LISTENING:
            self._look_at_backlog(d, one)
            return []
        named = os.fsdecode(one.name).replace("\0", "@")
        socket = f"unix socket {named + ' ' if named else ''}(socket:[{inode}])"
        where = socket if isinstance(d, InFlight) else f"process {d.pid}, {socket}"
        with Duplicate(d.pid, d.fd) as fd:
            if has_error(fd) and (one.type != _SOCK_STREAM or one.peer != 0):
                raise Refused("an error waits to be reported (SO_ERROR)", where=where)
            queue = unix_queues.peek(fd, one.type, bool(one.shutdown & _RCV_SHUTDOWN), where)
        self._queues[inode] = queue
        return [InFlight(fd, where) for message in queue for fd in message.fds]

    def _look_at_backlog(self, d: procfs.Descriptor, one: Told) -> None:
        """Without BPF there is an obstacle, of which unix_backlog tells."""
        if one.queue:
            from livecr.kernel.unix_backlog import connections

            with suppress(Unavailable), Duplicate(d.pid, d.fd) as fd:
                self._backlogs[one.inode] = connections(fd)

    def backlog(self, inode: int) -> list[Connection]:
        """The connections that wait at one that listens and has been looked at."""
        return self._backlogs.get(inode, [])

    def of(self, inode: int) -> list[unix_queues.Peeked]:
        """The messages in one that has been looked at."""
        return self._queues[inode]


def has_error(fd: int) -> bool:
    """POLLERR, which tells of a waiting error without taking it."""
    import select

    poll = select.poll()
    poll.register(fd, 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))
