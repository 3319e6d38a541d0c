"""Descriptors as `livecr show` tells them: what each number points to."""

from __future__ import annotations

import os

from livecr.cli.signal_names import SIGNALS, signal_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, TypeVar

    from livecr.kinds.descriptors import Table
    from livecr.kinds.io_uring import IoUring
    from livecr.kinds.process import Process
    from livecr.kinds.sockets_inet import Address, InetSocket
    from livecr.kinds.sockets_netlink import NetlinkSocket
    from livecr.kinds.sockets_unix import UnixSocket
    from livecr.kinds.timerfd import TimerFd

    T = TypeVar("T")

__all__ = ["at", "descriptors"]


def at(rows: Sequence[T], index: int, image: str) -> T:
    """A row that another record names. Raises BadImage where there is none."""
    if not 0 <= index < len(rows):
        from livecr.errors import BadImage

        raise BadImage("its records do not fit together", where=image)
    return rows[index]


def descriptors(table: Table, record: Process, image: str) -> list[dict[str, Any]]:
    held = {pipe.pipe: len(pipe.data) for pipe in table.pipes}
    locked: dict[int, set[str]] = {}
    for lock in table.locks:
        locked.setdefault(lock.description, set()).add(lock.kind)
    found = []
    for descriptor in record.descriptors:
        description: Any = at(table.descriptions, descriptor.description, image)
        kind = type(description).__struct_config__.tag
        what = getattr(description, "path", "")
        if kind in ("pipe", "fifo"):
            data = f"{held.get(description.pipe, 0)} bytes in it"
            what = f"{what}, {data}" if what else f"pipe:[{description.pipe}], {data}"
        elif kind == "unix-socket":
            what = _unix_socket(description)
        elif kind == "memfd":
            what = f"{description.name}, {description.size_bytes} bytes"
        elif kind == "mqueue":
            deleted = "" if description.linked else " (deleted)"
            what = f"/{description.name}{deleted}, {description.waiting} messages in it"
        elif kind == "eventfd":
            what = f"count {description.count}"
        elif kind == "epoll":
            what = "watches " + (
                ", ".join(map(str, sorted(item.fd for item in description.items))) or "nothing"
            )
        elif kind == "timerfd":
            what = _timerfd(description)
        elif kind == "signalfd":
            what = ", ".join(signal_name(n) for n in range(1, SIGNALS + 1) if description.mask >> n - 1 & 1)
        elif kind == "io_uring":
            what = _io_uring(description)
        elif kind == "inotify":
            what = "watches " + (", ".join(watch.path for watch in description.watches) or "nothing")
        elif kind == "netlink-socket":
            what = _netlink_socket(description)
        elif kind == "inet-socket":
            what = _inet_socket(description)
        elif getattr(description, "content", ""):
            what += " (deleted; its content is in the image)"
        if descriptor.description in locked:
            what += f" (locked by {', '.join(sorted(locked[descriptor.description]))})"
        found.append(
            {
                "fd": descriptor.fd,
                "kind": kind,
                "what": what,
                "access": ""
                if kind in _WITHOUT_ACCESS
                else _ACCESS.get(getattr(description, "flags", 0) & os.O_ACCMODE, ""),
                "offset": getattr(description, "offset", None),
                "description": descriptor.description,
                "close_on_exec": descriptor.close_on_exec,
            }
        )
    return found


def _unix_socket(description: UnixSocket) -> str:
    from livecr.kernel.sock_diag import LISTENING

    types = {1: "stream", 2: "datagram", 5: "sequenced packets"}
    name = os.fsdecode(description.name).replace("\0", "@")
    said = [
        types.get(description.socket_type, f"type {description.socket_type}"),
        f"inode {description.inode}",
    ]
    if name:
        said.append(f"bound to {name}")
    if description.state == LISTENING:
        said.append(f"listening, backlog {description.backlog}")
    if description.peer is not None:
        said.append(f"peer {description.peer}" if description.peer else "its peer is closed")
    if description.messages:
        said.append(f"{sum(len(message.data) for message in description.messages)} bytes in it")
        in_flight = sum(len(message.descriptors) for message in description.messages)
        said += [f"{in_flight} descriptors in flight"] if in_flight else []
    return ", ".join(said)


def _timerfd(description: TimerFd) -> str:
    from livecr.cli.terminal import duration
    from livecr.kernel.clock import clock_name

    left = f"{duration(description.remaining_ns)} left" if description.remaining_ns else "not set"
    every = f", every {duration(description.interval_ns)}" if description.interval_ns else ""
    unread = f", {description.ticks} expirations unread" if description.ticks else ""
    return f"{clock_name(description.clock)}, {left}{every}{unread}"


def _io_uring(description: IoUring) -> str:
    counts = f"{description.sq_head} requests and {description.cq_tail} completions"
    said = f"{description.sq_entries} entries, {counts}"
    for count, what in (
        (len(description.files), "registered files"),
        (len(description.buffers), "registered buffers"),
    ):
        said += f", {count} {what}" if count else ""
    return said


def _netlink_socket(description: NetlinkSocket) -> str:
    from livecr.kinds.sockets_netlink import PROTOCOLS

    groups = f", groups {', '.join(map(str, description.groups))}" if description.groups else ""
    name = PROTOCOLS.get(description.protocol, f"protocol {description.protocol}")
    return f"{name}, {f'port {description.port}' if description.port else 'not bound'}{groups}"


_TYPES = {1: "TCP", 2: "UDP", 3: "raw"}


def _inet_socket(description: InetSocket) -> str:
    def shown(address: Address) -> str:
        return f"[{address.host}]:{address.port}" if ":" in address.host else f"{address.host}:{address.port}"

    local, peer = description.local, description.peer
    verb = "listening at" if description.backlog is not None else "bound to"
    what = f"{_TYPES.get(description.socket_type, '')} {verb} {shown(local)}" if local else "not bound"
    if description.backlog is not None:
        what += f", backlog {description.backlog}"
    return f"{what}, sends to {shown(peer)}" if peer else what


# Of these the record's flags do not say it.
_WITHOUT_ACCESS = (
    *("unix-socket", "inet-socket", "netlink-socket", "eventfd", "epoll", "timerfd", "signalfd", "inotify"),
    "io_uring",
)
_ACCESS = {os.O_RDONLY: "r", os.O_WRONLY: "w", os.O_RDWR: "rw"}
