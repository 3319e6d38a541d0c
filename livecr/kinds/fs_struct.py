"""Where a process is: umask, root directory, current directory (struct fs_struct; unshare(2), CLONE_FS).

Threads have it in common unless one has called unshare(2), as servers do that act for many users. Relies on
/proc/PID/root and cwd, on kcmp(2) with KCMP_FS, and on chroot(2) by the process itself. Called by process.
"""

from __future__ import annotations

import os

from livecr.errors import Obstacle
from livecr.image.record import Record
from livecr.kernel import kcmp, leader, procfs
from livecr.kinds.directories import stands_in_the_way
from livecr.target.program import Program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.kinds.directories import Remaker, Saver
    from livecr.target.spawn import Seed
    from livecr.target.tracee import Tracee

__all__ = ["FsStruct", "Unshared", "load", "load_unshared", "obstacles", "save", "save_unshared"]

_CLONE_FS = 0x200
_GONE = (FileNotFoundError, ProcessLookupError)


class Whereabouts(Record):
    """A directory. ``removed``: its place in Content.removed if it has been removed, or -1."""

    path: str
    removed: int


class FsStruct(Record):
    """As the kernel calls it."""

    umask: int
    root: Whereabouts
    cwd: Whereabouts


class Unshared(Record):
    """That of a thread which has one of its own."""

    tid: int
    fs: FsStruct


# -- what stands in the way --------------------------------------------------------------------------------


def obstacles(pid: int) -> list[Obstacle]:
    """Directories that cannot be gone back to; and what threads have that livecr cannot take apart again."""
    found = _places(f"process {pid}", f"/proc/{leader.number(pid)}")
    first = leader.number(pid)
    others = [tid for tid in procfs.threads(pid) if tid not in (pid, first)]
    alone = []
    for tid in others:
        if kcmp.differs(first, tid, kcmp.FILES):
            what = "it has a descriptor table of its own (unshare, CLONE_FILES)"
            found.append(
                Obstacle(f"task {tid} of process {pid}", what, "this version of livecr cannot save that")
            )
        if kcmp.differs(first, tid, kcmp.FS):
            alone.append(tid)
            found += _places(f"task {tid} of process {pid}", f"/proc/{pid}/task/{tid}")
    for tid, other in ((tid, other) for tid in alone for other in alone if tid < other):
        if not kcmp.differs(tid, other, kcmp.FS):
            what = f"it shares its current directory and umask with task {other}, but not with the process"
            found.append(
                Obstacle(f"task {tid} of process {pid}", what, "this version of livecr cannot save that")
            )
    return found


def _places(task: str, directory: str) -> list[Obstacle]:
    found = []
    for link, called in (("root", "root"), ("cwd", "current")):
        try:
            what = stands_in_the_way(f"{directory}/{link}")
        except _GONE:
            continue  # it has just ended
        if what:
            found.append(Obstacle(task, f"its {called} directory {what[0]}", what[1]))
    return found


# -- saving ------------------------------------------------------------------------------------------------


def save(pid: int, told: dict[str, str], directories: Saver) -> FsStruct:
    """Of a frozen process; ``told``: the lines of its status file. Raises Refused."""
    return _save(f"/proc/{leader.number(pid)}", told, directories)


def save_unshared(pid: int, tids: list[int], directories: Saver) -> list[Unshared]:
    """Those of its threads that are not the leader's. Raises Refused."""
    return [
        Unshared(tid=tid, fs=_save(f"/proc/{pid}/task/{tid}", procfs.status(pid, tid), directories))
        for tid in tids
        if kcmp.differs(leader.number(pid), tid, kcmp.FS)
    ]


def _save(directory: str, told: dict[str, str], directories: Saver) -> FsStruct:
    root, cwd = (directories.find(f"{directory}/{link}") for link in ("root", "cwd"))
    return FsStruct(
        umask=int(told["Umask"], 8),
        root=Whereabouts(path=root[0], removed=root[1]),
        cwd=Whereabouts(path=cwd[0], removed=cwd[1]),
    )


# -- loading -----------------------------------------------------------------------------------------------


def load(record: FsStruct, directories: Remaker, seed: Seed, task: Tracee | None = None) -> None:
    """Of a process, or of a task that has its own. Its descriptors are there, and stay as they are.

    After all that needs a path in the process: from here on those are its own.
    """
    program = Program()
    program.add("umask", record.umask)
    held = []
    try:
        ours = program.add("pidfd_open", os.getpid(), 0)
        for place, is_root in ((record.root, True), (record.cwd, False)):
            if is_root and place.path == "/" and place.removed < 0:
                continue
            held.append(directories.open(place.path, place.removed, os.O_PATH | os.O_DIRECTORY))
            theirs = program.add("pidfd_getfd", ours, held[-1], 0)
            program.add("fchdir", theirs)
            if is_root:
                program.add("chroot", seed.put(b".\0"))
            program.add("close", theirs)
        program.add("close", ours)
        seed.run(program, task)
    finally:
        for fd in held:
            os.close(fd)


def load_unshared(
    records: list[Unshared], directories: Remaker, seed: Seed, tasks: dict[int, Tracee]
) -> None:
    """``tasks``: by TID."""
    for one in records:
        program = Program()
        program.add("unshare", _CLONE_FS)
        seed.run(program, tasks[one.tid])
        load(one.fs, directories, seed, tasks[one.tid])
