"""In which control groups each process is: of version 2, and of every hierarchy of version 1 (cgroups(7)).

A group is found again by its path where its hierarchy is mounted. livecr makes none: whoever manages groups
does. One that is gone is told as a warning, and the process stays in livecr's. Called by process.
"""

from __future__ import annotations

import os

from livecr.errors import Obstacle
from livecr.image.record import Record
from livecr.kernel import leader, procfs
from livecr.kernel.mountinfo import mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.target.spawn import Seed

__all__ = ["Membership", "load", "obstacles", "save"]

#: The file of a group to which a PID is written.
_PROCS = "cgroup.procs"


class Membership(Record):
    """``hierarchy``: the controllers of version 1, as /proc/PID/cgroup names them, or "" of version 2."""

    hierarchy: str
    path: str


def save(pid: int) -> list[Membership]:
    """Of a process."""
    return [Membership(hierarchy=name, path=path) for name, path in _told(pid, leader.number(pid))]


def _told(pid: int, tid: int) -> list[tuple[str, str]]:
    """Lines of /proc/PID/task/TID/cgroup: number of the hierarchy, controllers, path."""
    text = procfs.read(pid, f"task/{tid}/cgroup").decode("utf-8", "surrogateescape")
    found = []
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        found.append((controllers, path.removesuffix(" (deleted)")))
    return found


def obstacles(pid: int) -> list[Obstacle]:
    """Threads in groups of their own."""
    own = _told(pid, leader.number(pid))  # who has exited may have left its group
    for tid in procfs.threads(pid):
        if tid == pid and leader.has_exited(pid):
            continue
        try:
            there = _told(pid, tid)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
        if there != own and not procfs.is_ending(pid, tid):  # those that are have left their groups
            name, path = next(pair for pair in there if pair not in own)
            where = f"task {tid} of process {pid}"
            text = f"it is in another control group than its process: {name or 'version 2'}, {path}"
            return [Obstacle(where, text, "this version of livecr cannot save that")]
    return []


# -- loading -----------------------------------------------------------------------------------------------


def load(wanted: list[Membership], seed: Seed) -> list[str]:
    """Put it back where it was. Returns warnings: what is not there, or does not take it."""
    now = dict(_told(seed.pid, seed.leader.tid))
    differing = [one for one in wanted if now.get(one.hierarchy) != one.path]
    if not differing:
        return []
    mounts, warnings = _mounts(), []
    for one in differing:
        trouble = _enter(one, mounts, seed.pid)
        if trouble:
            name = f"control group {one.path} ({one.hierarchy or 'version 2'})"
            there = now.get(one.hierarchy)
            warnings.append(f"process {seed.pid}: {name}: {trouble}; it is in {there or 'none'} now")
    return warnings


def _enter(one: Membership, mounts: dict[str, tuple[str, str]], pid: int) -> str:
    """What is in the way, "" if it is in the group now."""
    if one.hierarchy not in mounts:
        return "that hierarchy is not mounted"
    root, mount_point = mounts[one.hierarchy]
    path = os.path.normpath(one.path)
    if not one.path.startswith("/") or os.path.commonpath([path, root]) != root:
        return "it is outside of what is mounted"
    try:
        with open(os.path.join(mount_point, os.path.relpath(path, root), _PROCS), "w") as file:
            file.write(str(pid))
    except OSError as error:
        return error.strerror or "it cannot be entered"
    return ""


def _mounts() -> dict[str, tuple[str, str]]:
    """Hierarchy -> the group at the root of its mount, and the mount point."""
    found: dict[str, tuple[str, str]] = {}
    for mount in mounts():
        if mount.kind == "cgroup2":
            found.setdefault("", (mount.root, mount.point))
        elif mount.kind == "cgroup":
            for name in _hierarchies():
                if set(name.split(",")) <= set(mount.options):
                    found.setdefault(name, (mount.root, mount.point))
    return found


def _hierarchies() -> list[str]:
    """Those of version 1 that there are."""
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as lines:
        return [name for name in (line.split(":", 2)[1] for line in lines) if name]
