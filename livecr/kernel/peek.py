"""What the kernel keeps and no call tells without changing it: read by a BPF program of type syscall.

The messages in a POSIX queue, whom it will notify, what semaphores get back when a process ends (SEM_UNDO),
the seccomp filters of a task that runs; and what unix_backlog reads. Relies on native/bpf/peek.bpf.c (Linux
5.14, the kernel's own BTF, CAP_BPF and CAP_PERFMON); where any of it is missing, ``Peek.open`` says so. What
is read of IPC must stand still: the process is frozen, and the only one that uses it. Called by kinds;
``LIVECR_WITHOUT=bpf`` switches it off.
"""

from __future__ import annotations

import os
from struct import Struct

from livecr._native import ffi, lib
from livecr.errors import Failed
from livecr.kernel.bpf import Unavailable, switched_off

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Peek", "Queue", "probe", "restless"]

OBJECT = os.path.join(os.path.dirname(os.path.dirname(__file__)), "native", "peek.bpf.o")

# struct request of native/bpf/peek.bpf.c, without its data.
_ANSWERS = 16
_REQUEST = Struct(f"=IIQiI{_ANSWERS}Q")
_DATA_BYTES = 256
_READ, _QUEUE, _UNDO, _FILTERS, _DATAGRAMS = 0, 1, 2, 3, 5
_PAGE_BYTES = 4096  # ipc/msgutil.c: each piece of a message fills a page together with its head
_COOKIE_BYTES = 32  # NOTIFY_COOKIE_LEN of <linux/mqueue.h>
_LONGEST_BYTES = 16 << 20  # HARD_MSGSIZEMAX
_MOST_MESSAGES = 65536  # HARD_MSGMAX
_FILTERS_MOST = 32768  # kernel/seccomp.c, MAX_INSNS_PER_PATH: all filters of a task together
_INSTRUCTION_BYTES = 8  # struct sock_filter
_DEEPEST = 64  # no red-black tree of so many leaves is deeper
# What is answered: first what was looked for, then where members stand in their structures, in bytes.
_QUEUE_ANSWER = (
    *("root", "value", "socket_inode", "cookie", "node.rb_node", "rb.left", "rb.right", "node.msg_list"),
    *("list.next", "msg.m_list", "msg.m_type", "msg.m_ts", "msg.next", "msg", "seg.next", "seg"),
)
_FILTERS_ANSWER = ("filter", "filter.prev", "filter.prog", "prog.orig", "orig.len", "orig.filter")
_UNDO_ANSWER = ("list_proc", "list.next", "undo.list_proc", "undo.semid", "in_one", "undo.semadj")


class Queue:
    """A POSIX message queue. ``messages``: (priority, content), in the order in which they are received.

    ``value``: sigev_value of the registration; ``socket_inode`` and ``cookie``: of one with SIGEV_THREAD.
    """

    __slots__ = ("cookie", "messages", "socket_inode", "value")

    def __init__(self, value: int, socket_inode: int, cookie: bytes) -> None:
        self.value = value
        self.socket_inode = socket_inode
        self.cookie = cookie
        self.messages: list[tuple[int, bytes]] = []


_loaded: list[Peek] = []


class Peek:
    """The loaded program."""

    def __init__(self, program: int) -> None:
        self._program = program

    @classmethod
    def open(cls) -> Peek:
        """Load it, once for all: that takes as long as a whole checkpoint, so best before the freeze.

        Raises Unavailable with the reason.
        """
        if switched_off("sleeper"):
            raise Unavailable("switched off by LIVECR_WITHOUT")
        if not _loaded:
            _loaded.append(cls(_load()))
        return _loaded[0]

    def queue(self, fd: int, *, with_cookie: bool) -> Queue:
        """The queue behind livecr's own descriptor ``fd``. Raises Failed.

        ``with_cookie``: its registration is of SIGEV_THREAD. Else these fields hold remains of others.
        """
        told = dict(zip(_QUEUE_ANSWER, self.ask(_QUEUE, fd), strict=False))
        queue = Queue(told["value"], told["socket_inode"], b"")
        if with_cookie:
            queue.cookie = self.read(told["cookie"], _COOKIE_BYTES)
        for message in self._messages(told["root"], told, 0):
            queue.messages.append(message)
            if len(queue.messages) > _MOST_MESSAGES:
                raise restless()
        return queue

    def undo(self, pidfd: int, sizes: dict[int, int]) -> list[tuple[int, int, int]]:
        """What a process gives back when it ends: (id of a set, number of its semaphore, by how much).

        ``pidfd``: livecr's own of it; ``sizes``: how many semaphores each set has. Raises Failed.
        """
        told = dict(zip(_UNDO_ANSWER, self.ask(_UNDO, pidfd), strict=False))
        found: list[tuple[int, int, int]] = []
        head = told["list_proc"]
        at = self.word(head + told["list.next"]) if head else head
        while at != head:
            undo = at - told["undo.list_proc"]
            semid = int.from_bytes(self.read(undo + told["undo.semid"], 4), "little", signed=True)
            values = undo + told["undo.semadj"]
            if not told["in_one"]:
                values = self.word(values)
            if semid in sizes:  # it is -1 when the set has been removed
                raw = self.read(values, 2 * sizes[semid])
                for number in range(sizes[semid]):
                    by = int.from_bytes(raw[2 * number : 2 * number + 2], "little", signed=True)
                    if by:
                        found.append((semid, number, by))
            at = self.word(at + told["list.next"])
            if len(found) > _MOST_MESSAGES:
                raise restless()
        return found

    def filters(self, pidfd: int) -> list[bytes]:
        """The seccomp filters of a task, the oldest first, each an array of struct sock_filter.

        ``pidfd``: livecr's own of it. The task may run: filters are only added. Raises Failed.
        """
        told = dict(zip(_FILTERS_ANSWER, self.ask(_FILTERS, pidfd), strict=False))
        found: list[bytes] = []
        at, left = told["filter"], _FILTERS_MOST
        while at:
            original = self.word(self.word(at + told["filter.prog"]) + told["prog.orig"])
            count = int.from_bytes(self.read(original + told["orig.len"], 2), "little")
            left -= count
            if not original or not count or left < 0:
                raise restless()
            program = self.word(original + told["orig.filter"])
            found.insert(0, self.read(program, count * _INSTRUCTION_BYTES))
            at = self.word(at + told["filter.prev"])
        return found

    def datagrams(self, fd: int) -> int:
        """How many wait in livecr's own UDP socket ``fd``."""
        return self.ask(_DATAGRAMS, fd)[0]

    # -- structures --------------------------------------------------------------------------------------

    def _messages(self, node: int, told: dict[str, int], depth: int) -> Iterator[tuple[int, bytes]]:
        """Of a part of the tree, the highest priority first (ipc/mqueue.c, msg_insert and msg_get)."""
        if not node:
            return
        if depth > _DEEPEST:
            raise restless()
        yield from self._messages(self.word(node + told["rb.right"]), told, depth + 1)
        head = node - told["node.rb_node"] + told["node.msg_list"]
        at = self.word(head + told["list.next"])
        while at != head:
            yield self._message(at - told["msg.m_list"], told)
            at = self.word(at + told["list.next"])
        yield from self._messages(self.word(node + told["rb.left"]), told, depth + 1)

    def _message(self, message: int, told: dict[str, int]) -> tuple[int, bytes]:
        """struct msg_msg with its first piece behind it; further ones have a struct msg_msgseg each."""
        priority, left = self.word(message + told["msg.m_type"]), self.word(message + told["msg.m_ts"])
        if left > _LONGEST_BYTES:
            raise restless()
        content = self.read(message + told["msg"], min(left, _PAGE_BYTES - told["msg"]))
        segment = self.word(message + told["msg.next"])
        while len(content) < left:
            content += self.read(segment + told["seg"], min(left - len(content), _PAGE_BYTES - told["seg"]))
            segment = self.word(segment + told["seg.next"])
        return priority, content

    # -- reading -----------------------------------------------------------------------------------------

    def ask(self, what: int, fd: int) -> list[int]:
        """The answer to one of the requests of peek.bpf.c about livecr's own descriptor ``fd``."""
        answer, _ = self._run(what, 0, fd)
        return answer

    def word(self, address: int) -> int:
        """64 bits of the kernel's memory."""
        return int.from_bytes(self.read(address, 8), "little")

    def read(self, address: int, size: int) -> bytes:
        """So much of the kernel's memory. Raises Failed."""
        content = b""
        while len(content) < size:
            piece = min(size - len(content), _DATA_BYTES)
            content += self._run(_READ, piece, address + len(content))[1][:piece]
        return content

    def _run(self, what: int, size: int, address: int) -> tuple[list[int], bytes]:
        request = bytearray(_REQUEST.pack(what, size, address, 0, 0, *[0] * _ANSWERS) + bytes(_DATA_BYTES))
        result = lib.lcr_peek(self._program, ffi.from_buffer(request), len(request))
        _, _, _, error, _, *answer = _REQUEST.unpack_from(request)
        if result < 0 or error < 0:
            raise Failed(f"reading what the kernel keeps: {os.strerror(-(result or error))}")
        return answer, bytes(request[_REQUEST.size :])


def _load() -> int:
    program = int(lib.lcr_peek_open(OBJECT.encode()))
    if program < 0:
        raise Unavailable(os.strerror(-program))
    return program


def probe() -> None:
    """Whether it can be loaded; nothing is left. Raises Unavailable with the reason."""
    os.close(_load())


def restless() -> Failed:
    """What is said of structures that change while they are read."""
    return Failed("what the kernel keeps does not stand still", way_out="try again")
