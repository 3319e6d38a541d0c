"""Everything that stands in the way of a checkpoint, found without touching the processes."""

from __future__ import annotations

import os

from livecr.errors import NoSuchProcess, Obstacle, Refused
from livecr.kernel import leader, machine, procfs
from livecr.kinds import common, descriptors, process, sysv, unlinked
from livecr.target import seccomp, tree
from livecr.waits import live

__all__ = ["obstacles"]

_TRIES = 100
_MISSING = (FileNotFoundError, ProcessLookupError, NoSuchProcess)


def obstacles(pid: int, unix_peer: str = "refuse", filter_policy: str = seccomp.RESPECT) -> list[Obstacle]:
    """All that would be refused. ``unix_peer``, ``filter_policy``: see livecr.checkpoint (``seccomp``).

    Raises Refused when there is no such process, or it may not be read.
    """
    if pid == os.getpid():
        return [Obstacle(f"process {pid}", "it is livecr itself", "name another process")]
    try:
        leader.look(pid)
        if not procfs.read(pid, "maps"):
            return [Obstacle(f"process {pid}", "it is a kernel thread or has ended", "name a program")]
        if procfs.status(pid).get("Tgid") != str(pid):
            tgid = procfs.status(pid).get("Tgid")
            return [
                Obstacle(f"task {pid}", f"it is a thread of process {tgid}", f"checkpoint {tgid} instead")
            ]
        return _of_tree(pid, unix_peer, filter_policy)
    except _MISSING:
        raise NoSuchProcess(f"process {pid}") from None
    except PermissionError as error:
        raise Refused(
            f"it may not be looked at: {error.strerror} ({error.filename})",
            where=f"process {pid}",
            way_out="run livecr as root",
        ) from None


def _of_tree(root: int, unix_peer: str, filter_policy: str) -> list[Obstacle]:
    pids = tree.members(root)
    if os.getpid() in pids:
        return [Obstacle(f"process {root}", "livecr itself descends from it", "name another process")]
    tries = 0
    while True:
        try:
            mappings = {pid: procfs.mappings(pid) for pid in pids}
            found = [one for pid in pids for one in _of_one(pid, mappings[pid], filter_policy)]
            found += unlinked.outsiders(mappings, pids)
            return (
                found + common.obstacles(pids) + descriptors.obstacles(pids, unix_peer) + sysv.obstacles(pids)
            )
        except _MISSING:
            # A child may end at any time, and those born meanwhile will be looked at when they are frozen.
            there = set(tree.members(root))
            tries += 1
            if root not in there or tries > _TRIES:
                raise
            pids = [pid for pid in pids if pid in there]


def _of_one(pid: int, mappings: list[procfs.Mapping], filter_policy: str) -> list[Obstacle]:
    if found := leader.obstacles(pid):
        return found
    if machine.of_process(pid) == machine.X32:
        way_out = "use its x86-64 or i386 build: livecr saves these"
        return [Obstacle(f"process {pid}", "it is an x32 program", way_out)]
    return process.obstacles(pid, mappings, filter_policy) + live.obstacles_before_freeze(pid)
