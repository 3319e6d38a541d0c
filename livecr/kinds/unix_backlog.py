"""Connections that wait to be accepted, whose clients are in the tree or closed, and may have sent already.

They are in no descriptor table; kernel/unix_backlog reads them by BPF. At restore the clients connect and
send again before anybody accepts. Called by sockets_unix and sockets_unix_made.
"""

from __future__ import annotations

import os

from livecr.errors import Refused
from livecr.image.record import Record
from livecr.kernel.bpf import Unavailable
from livecr.kernel.sock_diag import LISTENING
from livecr.kinds.unix_queues import Credentials, Message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.kernel.sock_diag import UnixSocket as Told
    from livecr.kernel.unix_backlog import Connection

__all__ = ["Waiting", "credentials", "obstacle", "save"]

_NO_ONE = (0, 65534, 65534)  # as SCM_CREDENTIALS tells of a message without
_LATER = "try again a little later"


class Waiting(Record):
    """``client``: the inode of the socket that connected, 0 if it is closed; ``client_name``: of that one.

    ``creator_pid``, ``creator_uid``, ``creator_gid``: SO_PEERCRED will tell of the accepted socket.
    """

    client: int
    client_name: bytes
    creator_pid: int
    creator_uid: int
    creator_gid: int
    messages: list[Message]


def obstacle(name: str, one: Told) -> tuple[str, str] | None:
    """Of a socket ``one`` of the tree. Who waits, sockets_unix looks at."""
    if one.state != LISTENING or not one.queue:
        return None
    try:
        from livecr.kernel.peek import Peek

        Peek.open()
    except Unavailable as error:
        what = f"{name} has connections that wait to be accepted, which takes BPF to look at ({error})"
        return what, _LATER
    return None


def save(
    connections: list[Connection],
    one: Told,
    ours: set[int],
    insiders: frozenset[int],
    stand_in: int,
    where: str,
    *,
    closes: bool,
) -> list[Waiting]:
    """Of a frozen listening socket. ``stand_in``: the PID that stands for those of other programs if
    ``closes``. Raises Refused."""
    if len(connections) != len(one.waiting):
        raise Refused("connections come in that wait to be accepted", where=where, way_out=_LATER)
    return [
        _save(connection, inode if inode in ours else 0, insiders, stand_in, where, closes=closes)
        for connection, inode in zip(connections, one.waiting, strict=True)
    ]


def _save(
    connection: Connection, client: int, insiders: frozenset[int], stand_in: int, where: str, *, closes: bool
) -> Waiting:
    creator, uid, gid = connection.creator
    way_out = "try again when the program has accepted it"
    if connection.beyond:
        raise Refused(f"a connection that waits holds {connection.beyond}", where=where, way_out=way_out)
    if creator not in insiders and not closes:
        what = f"a connection that waits was made by process {creator} (SO_PEERCRED), which is not there"
        raise Refused(what, where=where, way_out=way_out)
    if not client and connection.name and not connection.name.startswith(b"\0"):
        what = f"a connection that waits was made from {os.fsdecode(connection.name)}, which is closed"
        raise Refused(what, where=where, way_out=way_out)
    return Waiting(
        client=client,
        client_name=connection.name,
        creator_pid=creator if creator in insiders else stand_in,
        creator_uid=uid,
        creator_gid=gid,
        messages=[
            Message(data=data, source=b"", credentials=credentials(sender), descriptors=[])
            for data, sender in connection.messages
        ],
    )


def credentials(told: tuple[int, int, int] | None) -> Credentials | None:
    """As a record."""
    if told is None or told == _NO_ONE:
        return None
    return Credentials(pid=told[0], uid=told[1], gid=told[2])
