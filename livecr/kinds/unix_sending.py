"""The messages of unix sockets sent again, with what came along with them. Called by sockets_unix_made.

Relies on unix(7): who has CAP_SYS_ADMIN may send the credentials of any process, if there is one of that PID.
"""

from __future__ import annotations

import os

from livecr._native import lib
from livecr.errors import Failed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket

    from livecr.kinds.unix_queues import Credentials, Message

__all__ = ["send"]

_SOL_SOCKET, _SO_SNDBUFFORCE, _MSG_DONTWAIT = 1, 32, 0x40
_SCM_RIGHTS, _SCM_CREDENTIALS, _SIGKILL, _EEXIST = 1, 2, 9, 17
# While a queue is filled: how the sender's data lies in buffers, and so how much room it takes, may differ.
_FILLING_BYTES = 1 << 30


def send(
    sender: socket, message: Message, descriptors: dict[int, int], address: bytes | None, where: str
) -> None:
    """All of it. ``descriptors``: livecr's own, by the places of their descriptions; ``address``: None if
    ``sender`` is connected. Raises Failed."""
    try:
        sender.setsockopt(_SOL_SOCKET, _SO_SNDBUFFORCE, _FILLING_BYTES)
        with _Alive(message.credentials):
            _send(sender, message.data, _control(message, descriptors), address)
    except OSError as error:
        raise Failed(f"its data cannot be put back: {error.strerror}", where=where) from None


def _control(message: Message, descriptors: dict[int, int]) -> list[tuple[int, int, bytes]]:
    """What goes along with a message, as sendmsg of Python takes it."""
    control = []
    if message.credentials:
        own = message.credentials  # struct ucred
        ids = b"".join(number.to_bytes(4, "little") for number in (own.pid, own.uid, own.gid))
        control.append((_SOL_SOCKET, _SCM_CREDENTIALS, ids))
    if message.descriptors:
        fds = b"".join(descriptors[place].to_bytes(4, "little") for place in message.descriptors)
        control.append((_SOL_SOCKET, _SCM_RIGHTS, fds))
    return control


def _send(sender: socket, data: bytes, control: list[tuple[int, int, bytes]], address: bytes | None) -> None:
    """A message goes as a whole, a stream may take it in parts, descriptors with the first."""
    where = () if address is None else (address,)
    while True:
        sent = sender.sendmsg([data], control, _MSG_DONTWAIT, *where)
        data = data[sent:]
        if not data:
            return
        control = [one for one in control if one[1] != _SCM_RIGHTS]


class _Alive:
    """Only the PID of a process can be sent. For one that has ended another stands in meanwhile."""

    def __init__(self, credentials: Credentials | None) -> None:
        self._pid = credentials.pid if credentials and not _exists(credentials.pid) else 0

    def __enter__(self) -> None:
        result = lib.lcr_stand_in(self._pid) if self._pid else 0
        if result == -_EEXIST:  # it is still the number of a group or a session, which will do
            self._pid = 0
        elif result < 0:
            raise OSError(-result, os.strerror(-result))

    def __exit__(self, *exc: object) -> None:
        if self._pid:
            os.kill(self._pid, _SIGKILL)
            os.waitpid(self._pid, 0)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
