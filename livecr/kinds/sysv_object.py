"""What System V segments, semaphore sets and message queues have in common: id, key, owners.

They are made again by the process itself, which is then who made them, and get the id that they had.
Relies on /proc/sys/kernel/*_next_id (CONFIG_CHECKPOINT_RESTORE), which tells the id of the next object that
anybody makes; so it is looked at afterwards. Called by the files of the three kinds.
"""

from __future__ import annotations

import os

from livecr._native import lib
from livecr.errors import Failed, Refused
from livecr.image.record import Record
from livecr.kernel import sysvipc
from livecr.target.program import Program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.target.spawn import Seed

__all__ = ["IPC_NOWAIT", "IPC_RMID", "PERMISSIONS", "IpcObject", "create", "remove", "shared", "where"]

IPC_CREAT, IPC_EXCL, IPC_NOWAIT = 0o1000, 0o2000, 0o4000
IPC_RMID, IPC_SET = 0, 1
PERMISSIONS = 0o777
_TRIES = 16
_NR_CONTROL = {sysvipc.SHARED_MEMORY: 31, sysvipc.SEMAPHORES: 66, sysvipc.MESSAGES: 71}
_NAMES = {
    sysvipc.SHARED_MEMORY: "segment",
    sysvipc.SEMAPHORES: "semaphore set",
    sysvipc.MESSAGES: "message queue",
}
_PERMISSION_BYTES = 48  # struct ipc64_perm, with which each of the three structures of IPC_SET begins
_STRUCTURE_BYTES = 128  # more than any of them has


class IpcObject(Record):
    """``key``: 0 is IPC_PRIVATE; ``uid``, ``gid``: of the owner, ``cuid``, ``cgid``: of who made it."""

    id: int
    key: int
    mode: int
    uid: int
    gid: int
    cuid: int
    cgid: int


def shared(row: dict[str, int], id: int) -> dict[str, int]:
    """The fields of an IpcObject from a row of /proc/sysvipc."""
    owners = {name: row[name] for name in ("uid", "gid", "cuid", "cgid")}
    return {"id": id, "key": row["key"], "mode": row["perms"] & PERMISSIONS} | owners


def where(kind: str, id: int) -> str:
    """For messages."""
    return f"{_NAMES[kind]} {id}"


def create(kind: str, record: IpcObject, size: int | None, seed: Seed, behind: bytes = b"") -> None:
    """Make it anew with its id, by the process itself. ``size``: where its call is told one; ``behind``: see
    set_owner.

    Raises Refused where the id or the key is taken.
    """
    for _ in range(_TRIES):
        _wish(kind, record.id)
        flags = IPC_CREAT | IPC_EXCL | record.mode & PERMISSIONS
        args = (record.key, flags) if size is None else (record.key, size, flags)
        got = _as_creator(record, f"{kind}get", args, seed)
        if got == record.id:
            set_owner(kind, record, seed, behind)
            return
        if got < 0:
            raise Refused(
                f"it cannot be made again: {kind}get: {os.strerror(-got)}",
                where=where(kind, record.id),
                way_out=f"ipcs tells who has a {_NAMES[kind]} with the key {record.key:#x}",
            )
        remove(kind, got)  # of somebody who was quicker to use the wish, or because the place is taken
        if record.id in sysvipc.objects(kind):
            break
    raise Refused(
        "its number is taken", where=where(kind, record.id), way_out="ipcs tells by whom; end that one"
    )


def _wish(kind: str, id: int) -> None:
    path = f"/proc/sys/kernel/{kind}_next_id"
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(str(id))
    except OSError as error:
        raise Refused(
            f"it cannot get its number again: {error.strerror} ({path})",
            where=where(kind, id),
            way_out="a kernel with CONFIG_CHECKPOINT_RESTORE and a writable /proc/sys are needed",
        ) from None


def _as_creator(record: IpcObject, name: str, args: tuple[int, ...], seed: Seed) -> int:
    """One call with the effective user and group that made the object."""
    program = Program()
    program.add("setresgid", -1, record.cgid, -1)
    program.add("setresuid", -1, record.cuid, -1)
    program.add(name, *args, must=False)
    program.add("setresuid", -1, 0, -1)
    program.add("setresgid", -1, 0, -1)
    return seed.run(program)[2]


def set_owner(kind: str, record: IpcObject, seed: Seed, behind: bytes) -> None:
    """IPC_SET. ``behind``: the members of its structure behind struct ipc64_perm."""
    # key, uid, gid, cuid, cgid, mode
    words = (0, record.uid, record.gid, 0, 0, record.mode & PERMISSIONS)
    structure = (
        b"".join(word.to_bytes(4, "little") for word in words).ljust(_PERMISSION_BYTES, b"\0") + behind
    )
    at = seed.put(structure.ljust(_STRUCTURE_BYTES, b"\0"))
    program = Program()
    number = (0,) if kind == sysvipc.SEMAPHORES else ()
    program.add(f"{kind}ctl", record.id, *number, IPC_SET, at, must=False)
    (result,) = seed.run(program)
    if result < 0:
        raise Failed(f"IPC_SET: {os.strerror(-result)}", where=where(kind, record.id))


def remove(kind: str, id: int) -> None:
    """IPC_RMID, by livecr."""
    number = (0,) if kind == sysvipc.SEMAPHORES else ()
    lib.lcr_syscall(_NR_CONTROL[kind], id, *number, IPC_RMID, *[0] * (4 - len(number)))
