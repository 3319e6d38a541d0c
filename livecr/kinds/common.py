"""What a process can have in common with its parent for good: memory, signal handlers, descriptors and so on.

clone(2) makes it so (CLONE_VM and its like), and a restore makes it again in the same way: so it can be kept
of parent and child, and of no others. Relies on kcmp(2). Called by births and check.
"""

from __future__ import annotations

import os
import time

from livecr.errors import BadImage, Obstacle
from livecr.kernel import kcmp, procfs
from livecr.kernel.async_io import RING_PATH

__all__ = ["FILES", "FS", "HANDLERS", "MEMORY", "check", "clone_flags", "obstacles", "shares"]

FS, FILES, HANDLERS, MEMORY = "fs", "files", "handlers", "memory"


class _Common:
    """``what``: KCMP_* of kcmp(2); ``flag``: CLONE_* of clone(2); ``called``: in errors."""

    __slots__ = ("called", "flag", "what")

    def __init__(self, what: int, flag: int, called: str) -> None:
        self.what = what
        self.flag = flag
        self.called = called


# By the name in Place.shares. Numbers of <linux/sched.h>.
_COMMON = {
    FS: _Common(kcmp.FS, 0x200, "current directory and umask (CLONE_FS)"),
    FILES: _Common(kcmp.FILES, 0x400, "descriptor table (CLONE_FILES)"),
    HANDLERS: _Common(kcmp.SIGHAND, 0x800, "signal handlers (CLONE_SIGHAND)"),
    MEMORY: _Common(kcmp.VM, 0x100, "memory (CLONE_VM; vfork)"),
}
_VFORK_S, _PAUSE_S = 1.0, 0.002
_FEW = 6  # so many memories are compared with all others sooner than all are sorted
_WAY_OUT = "this version of livecr cannot save that"
_GONE = (FileNotFoundError, ProcessLookupError)


def clone_flags(names: list[str]) -> int:
    """For a child that shares them with its parent."""
    return sum(_COMMON[name].flag for name in names)


def check(names: list[str], *, has_parent: bool, where: str) -> None:
    """Raises BadImage for what no child can share; ``has_parent``: in the image."""
    known = set(names) <= _COMMON.keys() and len(set(names)) == len(names)
    if not known or (names and not has_parent) or (HANDLERS in names and MEMORY not in names):
        raise BadImage("it shares what cannot be shared", where=where)


def shares(pid: int, parent: int) -> list[str]:
    """The names of what a process has in common with its parent."""
    return [name for name, one in _COMMON.items() if kcmp.is_same(pid, parent, one.what)]


def obstacles(pids: list[int], *, before: bool = True) -> list[Obstacle]:
    """What processes share that they cannot be made to share again. ``pids``: a tree, the root first.

    ``before``: the freeze. Then a vfork of the root's parent is waited for, and memory is looked for in all
    processes that there are.
    """
    places: dict[int, dict[str, int]] = {}
    for pid in pids:
        try:
            places[pid] = procfs.stat(pid)
        except _GONE:
            continue
    found = _with_outside(pids[0], places, before) + _without_birth(places)
    return found or (_outsiders(places) if before else [])


def _with_outside(root: int, places: dict[int, dict[str, int]], wait: bool) -> list[Obstacle]:
    parent = places[root]["ppid"] if root in places else 0
    if not parent:
        return []
    give_up = time.monotonic() + (_VFORK_S if wait else 0)
    while names := shares(root, parent):
        if time.monotonic() > give_up:
            break
        time.sleep(_PAUSE_S)
    texts = (f"it shares its {_COMMON[name].called} with its parent, process {parent}" for name in names)
    return [Obstacle(f"process {root}", text, _WAY_OUT) for text in texts]


def _without_birth(places: dict[int, dict[str, int]]) -> list[Obstacle]:
    """Those that share something, but not with their parent; or that cannot be born of it again."""
    found = []
    for one in _COMMON.values():
        for group in kcmp.groups(list(places), one.what):
            heads = [pid for pid in group if places[pid]["ppid"] not in group]
            for pid in heads[1:]:
                what = f"it shares its {one.called} with process {heads[0]}, which is not its parent"
                found.append(Obstacle(f"process {pid}", what, _WAY_OUT))
            for pid in group:
                if pid not in heads and not _has_session_of_birth(pid, places):
                    what = f"it shares its {one.called} with its parent, which is in another session"
                    found.append(Obstacle(f"process {pid}", what, _WAY_OUT))
            if one is _COMMON[MEMORY]:
                found += _rings(group)
    return found


def _outsiders(places: dict[int, dict[str, int]]) -> list[Obstacle]:
    """Other processes with the same memory: their common parent may be outside of the tree, or have ended."""
    twice = {pid for group in kcmp.groups(list(places), kcmp.VM) for pid in group[1:]}
    inside = [pid for pid in places if pid not in twice]
    others = [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) not in places]
    if len(inside) < _FEW:
        pairs = [(pid, other) for pid in inside for other in others if kcmp.is_same(pid, other, kcmp.VM)]
    else:
        groups = kcmp.groups([*inside, *others], kcmp.VM)
        pairs = [(group[0], other) for group in groups if group[0] in places for other in group[1:]]
    return [
        Obstacle(
            f"process {pid}",
            f"it shares its {_COMMON[MEMORY].called} with process {other}, which is no part of the program",
            "checkpoint a process above both",
        )
        for pid, other in pairs
    ]


def _has_session_of_birth(pid: int, places: dict[int, dict[str, int]]) -> bool:
    """Whether it leads a session, or is in its parent's, or in that of before its parent began one."""
    sid, parent = places[pid]["session"], places[pid]["ppid"]
    before = places.get(places[parent]["ppid"], {}).get("session", 0)
    return sid in (pid, places[parent]["session"]) or (places[parent]["session"] == parent and sid == before)


def _rings(group: list[int]) -> list[Obstacle]:
    """An io_uring is mapped through a descriptor, which is one process's if the table is not common too."""
    first = group[0]
    try:
        if all(kcmp.is_same(first, pid, kcmp.FILES) for pid in group[1:]):
            return []
        if any(m.path == RING_PATH for m in procfs.mappings(first, with_flags=False)):
            what = "it uses io_uring, and shares its memory with a process that has descriptors of its own"
            return [Obstacle(f"process {first}", what, _WAY_OUT)]
    except _GONE:
        pass
    return []
