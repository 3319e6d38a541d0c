"""File locks: POSIX locks belong to a process, flock(2) and OFD locks to an open file description.

Relies on the ``lock:`` lines of fdinfo (fs/locks.c: those made through this description), fcntl_locking(2)
and flock(2). Called by descriptors. A task that waits for a lock needs nothing: its call is made again.
"""

from __future__ import annotations

import os

from livecr.errors import Refused
from livecr.image.record import Record
from livecr.target.program import Program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.kernel import procfs
    from livecr.target.spawn import Seed

__all__ = ["Lock", "load_of_description", "load_of_process", "obstacle", "save"]

F_GETLK, F_SETLK, F_OFD_SETLK = 5, 6, 37
_F_UNLCK, _LOCK_NB = 2, 4
_KINDS = {"POSIX": "posix", "OFDLCK": "ofd", "FLOCK": "flock"}
_BUSY = (-11, -13)  # EAGAIN, EACCES: fcntl(2) allows both


class Lock(Record):
    """``pid``: the process that holds a posix lock, 0 of others. ``description``: its index.

    ``kind``: posix, ofd, flock. ``length_bytes`` 0: to the end of the file."""

    pid: int
    description: int
    kind: str
    write: bool
    start_bytes: int
    length_bytes: int


def _lines(d: procfs.Descriptor) -> list[list[str]]:
    """``["1:", "POSIX", "ADVISORY", "WRITE", "4855", "fe:00:2146314", "5", "14"]`` and the like."""
    return [line.split()[1:] for line in d.lines if line.startswith("lock:")]


def obstacle(d: procfs.Descriptor) -> tuple[str, str] | None:
    """Of leases and delegations see owners."""
    for words in _lines(d):
        if words[1] not in (*_KINDS, "LEASE", "DELEG"):
            return f"a {words[1]} lock is held on {d.target}", "this version of livecr does not restore that"
    return None


def save(d: procfs.Descriptor, description: int) -> list[Lock]:
    """The locks that were made through one description, and of POSIX locks those of this process."""
    found = []
    for words in _lines(d):
        if words[1] not in _KINDS:
            continue
        start, end = int(words[6]), words[7]
        found.append(
            Lock(
                pid=d.pid if words[1] == "POSIX" else 0,
                description=description,
                kind=_KINDS[words[1]],
                write=words[3] == "WRITE",
                start_bytes=start,
                length_bytes=0 if end == "EOF" else int(end) + 1 - start,
            )
        )
    return found


# -- loading -----------------------------------------------------------------------------------------------


def _flock_structure(lock: Lock) -> bytes:
    """struct flock: l_type, l_whence (SEEK_SET), l_start, l_len, l_pid (which has to be 0 for OFD locks)."""
    words = (int(lock.write), 0, 0, lock.start_bytes, lock.length_bytes, 0, 0)
    sizes = (2, 2, 4, 8, 8, 4, 4)
    return b"".join(word.to_bytes(size, "little") for word, size in zip(words, sizes, strict=True))


def load_of_description(lock: Lock, fd: int) -> None:
    """Take a flock or OFD lock on livecr's own ``fd``, of the description that the program will get.

    A POSIX lock is only looked at, before anything is made. Raises Refused where somebody else holds it.
    """
    from fcntl import LOCK_EX, LOCK_SH, fcntl, flock

    try:
        if lock.kind == "flock":
            flock(fd, (LOCK_EX if lock.write else LOCK_SH) | _LOCK_NB)
        elif lock.kind == "ofd":
            fcntl(fd, F_OFD_SETLK, _flock_structure(lock))
        elif lock.kind != "posix":
            raise ValueError(f"a lock of kind {lock.kind!r}")
        elif fcntl(fd, F_GETLK, _flock_structure(lock))[0] != _F_UNLCK:
            raise _held(lock, fd)
    except (BlockingIOError, PermissionError):
        raise _held(lock, fd) from None
    except OSError as error:
        raise Refused(
            f"its {lock.kind} lock cannot be taken again: {error.strerror}",
            where=os.readlink(f"/proc/self/fd/{fd}"),
            way_out="put back the file as it was at the checkpoint",
        ) from None


def load_of_process(lock: Lock, fd: int, ours: int, seed: Seed) -> None:
    """Take a POSIX lock, in the process itself, with a descriptor ``fd`` that it has; ``ours`` is livecr's.

    Last of all that is done with descriptors: closing any descriptor of a file gives all its locks up.
    """
    program = Program()
    program.add("fcntl", fd, F_SETLK, seed.put(_flock_structure(lock)), must=False)
    (result,) = seed.run(program)
    if result in _BUSY:
        raise _held(lock, ours)
    if result < 0:
        raise Refused(
            f"its posix lock cannot be taken again: {os.strerror(-result)}",
            where=os.readlink(f"/proc/self/fd/{ours}"),
            way_out="put back the file as it was at the checkpoint",
        )


def _held(lock: Lock, fd: int) -> Refused:
    stat = os.fstat(fd)
    number = f"{os.major(stat.st_dev):02x}:{os.minor(stat.st_dev):02x}:{stat.st_ino}"
    with open("/proc/locks", encoding="ascii") as file:
        lines = [line.split() for line in file]
    holders = {words[4] for words in lines if len(words) == 8 and words[5] == number and words[4].isdigit()}
    holders.discard(str(os.getpid()))
    by = f" by process {', '.join(sorted(holders))}" if holders else " by somebody else"
    return Refused(
        f"a {lock.kind} lock that the program held is now held{by}",
        where=os.readlink(f"/proc/self/fd/{fd}"),
        way_out="let it be given up first (/proc/locks tells by whom)",
    )
