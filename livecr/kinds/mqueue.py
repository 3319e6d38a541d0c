"""POSIX message queues, mq_overview(7): the descriptors, and whom a queue notifies when a message comes.

A queue that has a name lives on in the kernel without the program, with all that is in it: it is opened again
by its name. One that is unlinked would die with the program, so its messages are read by BPF (kernel/peek.py;
no call gives a message without taking it) and it is made anew. Reading the descriptor tells of a registration
with mq_notify(3); its value and cookie are read by BPF too. Called by descriptors.
"""

from __future__ import annotations

import os

from livecr._native import ffi, lib
from livecr.errors import Failed, Obstacle, Refused
from livecr.image.record import Record
from livecr.kernel.bpf import Unavailable
from livecr.kernel.peek import Peek
from livecr.kinds import memfd
from livecr.target.program import Program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.kernel import procfs
    from livecr.kernel.peek import Queue
    from livecr.target.spawn import Seed

__all__ = [
    *("Message", "MessageQueue", "Notification", "Remaker", "is_queue", "obstacle", "obstacles"),
    *("register", "save"),
]

NR_STATFS, NR_MQ_OPEN, NR_MQ_UNLINK, NR_MQ_TIMEDSEND, NR_MQ_GETSETATTR = 137, 240, 241, 242, 245
_MQUEUE_MAGIC = 0x19800202  # ipc/mqueue.c, what statfs(2) tells of its file system
_FILE_BYTES = 80  # FILENT_SIZE there: the size that stat(2) tells of every queue
_STATFS_BYTES = 120
_FLAGS = os.O_ACCMODE | os.O_NONBLOCK
_DELETED = " (deleted)"
_ATTRIBUTES = 8  # struct mq_attr: flags, maxmsg, msgsize, curmsgs and four words more, 8 bytes each
SIGEV_SIGNAL, SIGEV_NONE, SIGEV_THREAD = 0, 1, 2
_SIGEVENT_BYTES, _COOKIE_BYTES = 64, 32


class Message(Record):
    """One message."""

    priority: int
    data: bytes


class Notification(Record):
    """What process ``pid`` has registered by mq_notify. ``how``: SIGEV_*.

    ``signal``, ``value``: of SIGEV_SIGNAL; ``socket``: the inode of the netlink socket to which SIGEV_THREAD
    sends ``cookie``.
    """

    pid: int
    how: int
    signal: int
    value: int
    socket: int
    cookie: bytes


class MessageQueue(Record, tag="mqueue"):
    """One description. ``inode``: those of one queue share it. ``flags``: O_ACCMODE and O_NONBLOCK.

    ``waiting``: how many messages are in the queue; ``messages``: they themselves, of one that is not
    ``linked``. Sizes in bytes. ``offset``: of read(2), which tells about the queue. ``notification``: the
    queue's, if it is of a process of the tree.
    """

    inode: int
    name: str
    linked: bool
    flags: int
    offset: int
    mode: int
    uid: int
    gid: int
    messages_max: int
    message_bytes_max: int
    waiting: int
    messages: list[Message]
    notification: Notification | None


def _address(buffer: object) -> int:
    return int(ffi.cast("uintptr_t", ffi.from_buffer(buffer)))


def is_queue(d: procfs.Descriptor, stat: os.stat_result) -> bool:
    """Whether a regular file is a message queue."""
    if stat.st_size != _FILE_BYTES:
        return False
    path, told = d.path.encode() + b"\0", bytearray(_STATFS_BYTES)
    if lib.lcr_syscall(NR_STATFS, _address(path), _address(told), 0, 0, 0, 0) < 0:
        return False
    return int.from_bytes(told[:8], "little") == _MQUEUE_MAGIC


class _Open:
    """A queue of a process, open in livecr by a description of its own."""

    def __init__(self, d: procfs.Descriptor) -> None:
        self.fd = os.open(d.path, os.O_RDONLY | os.O_CLOEXEC)

    def __enter__(self) -> _Open:
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self.fd)

    def attributes(self) -> list[int]:
        """Of struct mq_attr: flags, most messages, most bytes of one, messages that wait."""
        return _attributes(self.fd)

    def registered(self) -> tuple[int, int, int]:
        """Whom it notifies: process (0 for none), SIGEV_*, signal."""
        words = os.pread(self.fd, _FILE_BYTES, 0).decode("ascii").split()
        told = {name: int(value) for name, _, value in (word.partition(":") for word in words)}
        return told["NOTIFY_PID"], told["NOTIFY"], told["SIGNO"]


def _attributes(fd: int) -> list[int]:
    raw = bytearray(8 * _ATTRIBUTES)
    result = lib.lcr_syscall(NR_MQ_GETSETATTR, fd, 0, _address(raw), 0, 0, 0)
    if result < 0:
        raise Failed(f"mq_getattr: {os.strerror(-result)}")
    return [int.from_bytes(raw[8 * i : 8 * i + 8], "little") for i in range(4)]


# -- what stands in the way --------------------------------------------------------------------------------


def obstacle(d: procfs.Descriptor, stat: os.stat_result) -> tuple[str, str] | None:
    """See ``obstacles`` for what is in it."""
    if d.flags & os.O_PATH:
        return f"a message queue ({d.target}) is open with O_PATH", "this version cannot restore that"
    return None


def obstacles(
    descriptors: list[procfs.Descriptor],
    stats: dict[procfs.Descriptor, os.stat_result],
    insiders: frozenset[int],
) -> list[Obstacle]:
    """Unlinked queues that others have too, and what BPF would have to read and cannot.

    ``descriptors``: those of queues that the processes ``insiders`` have.
    """
    found = memfd.outsiders([d for d in descriptors if not stats[d].st_nlink], stats, insiders)
    unreadable = ""
    for d in descriptors:
        try:
            with _Open(d) as queue:
                _, _, _, waiting = queue.attributes()
                owner, how, _ = queue.registered()
        except FileNotFoundError:
            continue  # it has just been closed
        what = ""
        if waiting and not stats[d].st_nlink:
            what = f"the unlinked message queue {d.target} has messages in it"
        elif owner == d.pid and how != SIGEV_NONE:
            what = f"it waits for a notification of the message queue {d.target} (mq_notify)"
        if what:
            unreadable = unreadable or _unreadable()
        if what and unreadable != _READABLE:
            way_out = f"they can only be read by BPF: {unreadable}; or try again when that is over"
            found.append(Obstacle(d.where, what, way_out))
    return found


_READABLE = "yes"


def _unreadable() -> str:
    try:
        Peek.open()
    except Unavailable as reason:
        return str(reason)
    return _READABLE


# -- saving ------------------------------------------------------------------------------------------------


def save(d: procfs.Descriptor, stat: os.stat_result, insiders: frozenset[int]) -> MessageQueue:
    """Of a frozen process; nothing is consumed. Raises Refused where BPF is needed and not to be had."""
    linked = stat.st_nlink > 0
    with _Open(d) as queue:
        _, messages_max, bytes_max, waiting = queue.attributes()
        owner, how, signal = queue.registered()
        read = None
        if (waiting and not linked) or (owner in insiders and how != SIGEV_NONE):
            read = _peek(queue.fd, how == SIGEV_THREAD, f"{d.where}, message queue {d.target}")
    messages = []
    if read is not None and not linked:
        messages = [Message(priority=priority, data=data) for priority, data in read.messages]
        if len(messages) != waiting:
            raise Failed(f"{waiting} messages are in it, and {len(messages)} were read", where=d.target)
    return MessageQueue(
        inode=stat.st_ino,
        name=os.path.basename(d.target.removesuffix(_DELETED) if not linked else d.target),
        linked=linked,
        flags=d.flags & _FLAGS,
        offset=d.pos,
        mode=stat.st_mode & 0o7777,
        uid=stat.st_uid,
        gid=stat.st_gid,
        messages_max=messages_max,
        message_bytes_max=bytes_max,
        waiting=waiting,
        messages=messages,
        notification=_notification(owner, how, signal, read) if owner in insiders else None,
    )


def _peek(fd: int, with_cookie: bool, where: str) -> Queue:
    try:
        return Peek.open().queue(fd, with_cookie=with_cookie)
    except Unavailable as reason:
        raise Refused(f"what it holds can only be read by BPF: {reason}", where=where) from None


def _notification(owner: int, how: int, signal: int, read: Queue | None) -> Notification:
    return Notification(
        pid=owner,
        how=how,
        signal=signal,
        value=read.value if read and how == SIGEV_SIGNAL else 0,
        socket=read.socket_inode if read and how == SIGEV_THREAD else 0,
        cookie=read.cookie if read and how == SIGEV_THREAD else b"",
    )


# -- loading -----------------------------------------------------------------------------------------------


class Remaker:
    """Opens queues again; an unlinked one is made once, with its messages, for all its descriptions."""

    def __init__(self) -> None:
        self._made: dict[int, int] = {}

    def load(self, record: MessageQueue) -> int:
        """A description with the same flags. Raises Refused where the queue is not what it was."""
        if record.inode not in self._made:
            self._made[record.inode] = _find(record) if record.linked else _make(record)
        path = f"/proc/self/fd/{self._made[record.inode]}"
        fd = os.open(path, record.flags & _FLAGS | os.O_CLOEXEC)
        os.lseek(fd, record.offset, os.SEEK_SET)
        return fd

    def close(self) -> None:
        """Close what was only held for sharing."""
        for fd in self._made.values():
            os.close(fd)
        self._made.clear()


def _find(record: MessageQueue) -> int:
    where = f"message queue /{record.name}"
    name = os.fsencode(record.name) + b"\0"
    fd = int(lib.lcr_syscall(NR_MQ_OPEN, _address(name), os.O_RDONLY | os.O_CLOEXEC, 0, 0, 0, 0))
    if fd < 0:
        raise Refused(
            f"it cannot be opened: {os.strerror(-fd)}",
            where=where,
            way_out="make the queue again; what was in it is not in the image",
        )
    _, messages_max, bytes_max, _ = _attributes(fd)
    if (messages_max, bytes_max) != (record.messages_max, record.message_bytes_max):
        os.close(fd)
        raise Refused(
            f"it is another queue: for {messages_max} messages of {bytes_max} bytes",
            where=where,
            way_out=f"make one for {record.messages_max} messages of {record.message_bytes_max} bytes",
        )
    return fd


def _make(record: MessageQueue) -> int:
    """An unlinked queue, with what was in it."""
    where = f"message queue /{record.name} (deleted)"
    fd = _nameless(record.messages_max, record.message_bytes_max)
    if fd < 0:
        raise Refused(
            f"it cannot be made again: mq_open: {os.strerror(-fd)}",
            where=where,
            way_out=f"let /proc/sys/fs/mqueue allow {record.messages_max} messages of "
            f"{record.message_bytes_max} bytes, or give livecr CAP_SYS_RESOURCE",
        )
    try:
        for message in record.messages:
            _send(fd, message, where)
        os.fchown(fd, record.uid, record.gid)
        os.fchmod(fd, record.mode)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _nameless(messages_max: int, bytes_max: int) -> int:
    """A new queue, or -errno. While it has a name, that is livecr's own, and only root may open it."""
    name = f"livecr-{os.getpid()}\0".encode()
    words = (0, messages_max, bytes_max, *[0] * (_ATTRIBUTES - 3))
    attributes = b"".join(word.to_bytes(8, "little") for word in words)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NONBLOCK | os.O_CLOEXEC
    fd = int(lib.lcr_syscall(NR_MQ_OPEN, _address(name), flags, 0, _address(attributes), 0, 0))
    if fd >= 0:
        lib.lcr_syscall(NR_MQ_UNLINK, _address(name), 0, 0, 0, 0, 0)
    return fd


def _send(fd: int, message: Message, where: str) -> None:
    content = message.data or b"\0"  # an address even where nothing is read from it
    size = len(message.data)
    result = lib.lcr_syscall(NR_MQ_TIMEDSEND, fd, _address(content), size, message.priority, 0, 0)
    if result < 0:
        raise Failed(f"its messages cannot be put back: {os.strerror(-result)}", where=where)


def register(record: MessageQueue, ours: int, fd: int, sockets: dict[int, int], seed: Seed) -> None:
    """mq_notify again. ``ours``: livecr's descriptor; ``fd``: that of the process, whose ``seed`` it is.

    ``sockets``: netlink sockets by inode, as numbers in the process. After this no descriptor of the queue
    may be closed in it: that gives the registration up.
    """
    told = record.notification
    assert told is not None
    if _attributes(ours)[3] and not record.waiting:
        _tell_now(record, told, sockets, seed)
        return
    program = Program()
    program.add("mq_notify", fd, _event(told, sockets, seed), must=False)
    (result,) = seed.run(program)
    if result < 0:
        raise Refused(
            f"its notification cannot be registered again: {os.strerror(-result)}",
            where=f"message queue /{record.name}",
            way_out="end the process that is registered there now (/dev/mqueue tells)",
        )


def _event(told: Notification, sockets: dict[int, int], seed: Seed) -> int:
    """The address of a struct sigevent in the process."""
    value, signal = told.value, told.signal
    if told.how == SIGEV_THREAD:
        value, signal = seed.put(told.cookie.ljust(_COOKIE_BYTES, b"\0")), sockets[told.socket]
    event = value.to_bytes(8, "little") + signal.to_bytes(4, "little") + told.how.to_bytes(4, "little")
    return seed.put(event.ljust(_SIGEVENT_BYTES, b"\0"))


def _tell_now(record: MessageQueue, told: Notification, sockets: dict[int, int], seed: Seed) -> None:
    """A message came while the program was not there to be told: a queue made for that tells it now."""
    where = f"message queue /{record.name}"
    queue = _nameless(1, 1)
    if queue < 0:
        raise Failed(f"mq_open: {os.strerror(-queue)}", where=where)
    try:
        program = Program()
        pidfd = program.add("pidfd_open", os.getpid(), 0)
        theirs = program.add("pidfd_getfd", pidfd, queue, 0)
        program.add("close", pidfd)
        program.add("mq_notify", theirs, _event(told, sockets, seed))
        number = seed.run(program)[1]
        _send(queue, Message(priority=0, data=b""), where)
        program = Program()
        program.add("close", number)
        seed.run(program)
    finally:
        os.close(queue)
