"""Which other processes have an object open: the links in /proc/PID/fd of all of them. Called by kinds."""

from __future__ import annotations

import os

from livecr.kernel import procfs

__all__ = ["others", "outsiders"]

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
