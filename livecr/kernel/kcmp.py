"""Which processes have one and the same memory, descriptor table and so on: kcmp(2).

For two that differ it tells an order (kernel/kcmp.c), in which many are soon sorted. Called by kinds and
target.
"""

from __future__ import annotations

from functools import cmp_to_key

from livecr._native import lib
from livecr.kernel import leader

__all__ = ["FILES", "FS", "SIGHAND", "SYSVSEM", "VM", "differs", "groups", "is_same"]

VM, FILES, FS, SIGHAND, SYSVSEM = 1, 2, 3, 4, 6  # KCMP_* of <linux/kcmp.h>
_NR_KCMP = 312
_EQUAL, _LESS = 0, 1


def _compare(pid: int, other: int, what: int) -> int:
    one, two = leader.number(pid), leader.number(other)
    return int(lib.lcr_syscall(_NR_KCMP, one, two, what, 0, 0, 0))


def is_same(pid: int, other: int, what: int) -> bool:
    """Of two processes; False if one has ended."""
    return _compare(pid, other, what) == _EQUAL


def differs(task: int, other: int, what: int) -> bool:
    """Of two tasks; False if one has ended."""
    return _compare(task, other, what) > _EQUAL


def groups(pids: list[int], what: int) -> list[list[int]]:
    """Those that have it in common, in the order of ``pids``; those that are alone with it are left out."""
    if len(pids) < 2:
        return []
    place = {pid: i for i, pid in enumerate(pids)}

    def order(pid: int, other: int) -> int:
        told = _compare(pid, other, what)
        return 0 if told == _EQUAL else -1 if told == _LESS else 1

    found: list[list[int]] = []
    for pid in sorted(pids, key=cmp_to_key(order)):
        if found and is_same(found[-1][0], pid, what):
            found[-1].append(pid)
        else:
            found.append([pid])
    return sorted(
        (sorted(group, key=place.__getitem__) for group in found if len(group) > 1), key=lambda g: place[g[0]]
    )
