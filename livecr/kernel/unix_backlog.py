"""Connections that wait to be accepted by a unix socket, with what their clients have sent already.

No call tells of them but accept(2), which takes them. Relies on peek; the program is frozen, and sock_diag
tells the clients in the same order. Called by unix_in_flight.
"""

from __future__ import annotations

import os

from livecr.kernel.peek import Peek, restless

__all__ = ["Connection", "connections"]

_BACKLOG = 4  # enum in native/bpf/peek.bpf.c
_ANSWER = (
    *("sk", "sock.queue", "sock.peer_pid", "sock.peer_cred", "skb.next", "skb.sk", "skb.cb", "skb.len"),
    *("skb.data", "cb.pid", "cb.uid", "cred.uid", "unix.addr", "sock.flags", "address.len", "pid.level"),
)
# The lower half of some answers. 0 where there are none: the flags of messages, urgent data.
_SECOND = {
    "skb.len": "skb.data_len",
    "cb.pid": "cb.fp",
    "cb.uid": "cb.gid",
    "cred.uid": "cred.gid",
    "unix.addr": "unix.peer",
    "sock.flags": "unix.oob",
    "address.len": "address.name",
    "pid.level": "pid.numbers",
}
_MOST = 65536
_INITIAL_PID_NAMESPACE = 0xEFFFFFFC  # include/linux/proc_ns.h, PROC_PID_INIT_INO
_FAMILY_BYTES, _UPID_BYTES = 2, 16
_NOBODY = (0, 65534, 65534)


class Connection:
    """One that waits. ``creator``: pid, uid, gid of who called connect; ``name``: that of the client.

    ``messages``: data, and pid, uid, gid of who sent it. ``beyond``: words for what cannot be read, or "".
    """

    __slots__ = ("beyond", "creator", "messages", "name")

    def __init__(self, creator: tuple[int, int, int], name: bytes) -> None:
        self.creator = creator
        self.name = name
        self.messages: list[tuple[bytes, tuple[int, int, int]]] = []
        self.beyond = ""


def connections(fd: int) -> list[Connection]:
    """Of livecr's duplicate ``fd`` of a socket that listens. Raises Failed, Unavailable."""
    return _Reader(Peek.open()).connections(fd)


class _Reader:
    def __init__(self, peek: Peek) -> None:
        self._peek = peek
        self._at: dict[str, int] = {}
        # In a container nothing tells how deep its PID namespace lies.
        self._is_outermost = os.stat("/proc/self/ns/pid").st_ino == _INITIAL_PID_NAMESPACE

    def connections(self, fd: int) -> list[Connection]:
        """See above."""
        for name, value in zip(_ANSWER, self._peek.ask(_BACKLOG, fd), strict=True):
            if name in _SECOND:
                self._at[name], self._at[_SECOND[name]] = value >> 32, value & 0xFFFFFFFF
            else:
                self._at[name] = value
        return [self._connection(self._word(skb, "skb.sk")) for skb in self._queue(self._at["sk"])]

    def _word(self, structure: int, member: str) -> int:
        return self._peek.word(structure + self._at[member])

    def _int(self, structure: int, member: str) -> int:
        return int.from_bytes(self._peek.read(structure + self._at[member], 4), "little")

    def _flags(self, sock: int) -> bytes:
        """What messages are to tell of their senders; inherited when a connection is made (Linux 6.16)."""
        return self._peek.read(sock + self._at["sock.flags"], 1)

    def _queue(self, sock: int) -> list[int]:
        """The buffers in the queue of a socket; its head begins with a pointer like theirs."""
        head = sock + self._at["sock.queue"]
        found: list[int] = []
        at = self._peek.word(head)
        while at != head:
            found.append(at)
            if len(found) > _MOST:
                raise restless()
            at = self._word(at, "skb.next")
        return found

    def _connection(self, sock: int) -> Connection:
        pid, cred = self._word(sock, "sock.peer_pid"), self._word(sock, "sock.peer_cred")
        uid, gid = (self._int(cred, "cred.uid"), self._int(cred, "cred.gid")) if cred else (0, 0)
        client = self._word(sock, "unix.peer")
        address = self._word(client, "unix.addr") if client else 0
        length = self._int(address, "address.len") - _FAMILY_BYTES if address else 0
        path = self._peek.read(address + self._at["address.name"] + _FAMILY_BYTES, length) if address else b""
        name = path if path.startswith(b"\0") else path.partition(b"\0")[0]
        one = Connection((self._number(pid), uid, gid), name)
        if self._at["sock.flags"] and self._flags(sock) != self._flags(self._at["sk"]):
            one.beyond = "other options (SO_PASSCRED …) than the socket that listens has"
        if self._at["unix.oob"] and self._word(sock, "unix.oob"):
            one.beyond = "urgent data"
        for skb in self._queue(sock):
            size, cb = self._int(skb, "skb.len"), skb + self._at["skb.cb"]
            if self._word(cb, "cb.fp"):
                one.beyond = "a message with descriptors"
            elif self._int(skb, "skb.data_len"):
                one.beyond = "a message of several pages"
            else:
                data = self._peek.read(self._word(skb, "skb.data"), size)
                one.messages.append((data, self._sender(cb)))
        return one

    def _sender(self, cb: int) -> tuple[int, int, int]:
        pid = self._word(cb, "cb.pid")
        return (self._number(pid), self._int(cb, "cb.uid"), self._int(cb, "cb.gid")) if pid else _NOBODY

    def _number(self, pid: int) -> int:
        """What struct pid stands for in livecr's namespace; in a container, in the process's own."""
        if not pid:
            return 0
        level = 0 if self._is_outermost else self._int(pid, "pid.level")
        number = self._peek.read(pid + self._at["pid.numbers"] + level * _UPID_BYTES, 4)
        return int.from_bytes(number, "little")
