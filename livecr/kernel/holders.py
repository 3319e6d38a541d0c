"""Which other processes have an object open: the links in /proc/PID/fd of all of them. Called by kinds."""

from __future__ import annotations

import os

from livecr.kernel import procfs

__all__ = ["User", "others", "outsiders", "users"]

_GONE = (FileNotFoundError, ProcessLookupError)


def outsiders(insiders: frozenset[int]) -> list[int]:
    """Every process that neither is one of ``insiders`` nor descends from one, and is not livecr."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                parents[int(name)] = procfs.stat(int(name))["ppid"]
            except _GONE:
                continue
    inside = set(insiders)
    # A tree that is not frozen may have got new members since it was looked at.
    while new := {pid for pid, parent in parents.items() if parent in inside and pid not in inside}:
        inside |= new
    return [pid for pid in parents if pid not in inside and pid != os.getpid()]


def others(insiders: frozenset[int], targets: set[str]) -> dict[str, tuple[int, str, int]]:
    """By link target ("socket:[123]"): PID, name and descriptor of a holder that is no insider."""
    found: dict[str, tuple[int, str, int]] = {}
    for pid in outsiders(insiders) if targets else ():
        try:
            for fd in os.listdir(f"/proc/{pid}/fd"):
                target = os.readlink(f"/proc/{pid}/fd/{fd}")
                if target in targets:
                    name = procfs.read(pid, "comm").decode("utf-8", "replace").strip()
                    found.setdefault(target, (pid, name, int(fd)))
        except OSError:
            continue  # it has ended, or the descriptor has been closed
    return found


class User:
    """One that has a file. ``how``: "descriptor 3" or "mapped at 7f…"; ``writes``: whether it may."""

    __slots__ = ("how", "pid", "writes")

    def __init__(self, pid: int, how: str, *, writes: bool) -> None:
        self.pid = pid
        self.how = how
        self.writes = writes


def users(insiders: frozenset[int], wanted: dict[tuple[int, int], str]) -> dict[tuple[int, int], User]:
    """Who else has files open or mapped shared; of several one that may write.

    ``wanted`` and the result go by st_dev and st_ino; ``wanted`` has what links in /proc call each.
    """
    names = set(wanted.values())
    found: dict[tuple[int, int], User] = {}
    for pid in outsiders(insiders) if wanted else ():
        try:
            for key, user in [*_open(pid, names), *_mapped(pid, names)]:
                if key in wanted and (key not in found or user.writes > found[key].writes):
                    found[key] = user
        except OSError:
            continue  # it has ended, or what it had has been closed
    return found


def _open(pid: int, names: set[str]) -> list[tuple[tuple[int, int], User]]:
    found = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        path = f"/proc/{pid}/fd/{fd}"
        if os.readlink(path) in names:
            stat = os.stat(path)
            flags = procfs.read(pid, f"fdinfo/{fd}").split(b"flags:", 1)[1].split()[0]
            writes = int(flags, 8) & os.O_ACCMODE != os.O_RDONLY
            found.append(((stat.st_dev, stat.st_ino), User(pid, f"descriptor {fd}", writes=writes)))
    return found


def _mapped(pid: int, names: set[str]) -> list[tuple[tuple[int, int], User]]:
    found = []
    for m in procfs.mappings(pid, with_flags=False):
        if m.shared and m.path in names:
            stat = os.stat(f"/proc/{pid}/map_files/{m.start:x}-{m.end:x}")
            user = User(pid, f"mapped at {m.start:x}", writes="w" in m.perms)
            found.append(((stat.st_dev, stat.st_ino), user))
    return found
