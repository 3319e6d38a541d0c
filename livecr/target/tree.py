"""Stop a process and all its descendants, let them go again, or end them.

A frozen process makes no children, so when every process of the tree is frozen and another look finds none
that is new, none is missing. Relies on /proc/PID/task/TID/children. Called by checkpoint.py.
"""

from __future__ import annotations

import time
from contextlib import suppress

from livecr.errors import Failed, Refused
from livecr.kernel import kcmp, leader, procfs
from livecr.target import freeze as one
from livecr.target.guard import Guard
from livecr.target.process import Process, Tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from livecr.target.tracee import Tracee

__all__ = ["confirm", "end", "freeze", "members", "thaw"]

_TIMEOUT_S = 10.0
_ENDING_S, _PAUSE_S = 0.5, 0.001
_GONE = (FileNotFoundError, ProcessLookupError)


def members(pid: int) -> list[int]:
    """A running process and its descendants, parents first; those that have ended are not among them."""
    found = [pid]
    leader.look(pid)
    for parent in found:
        for child in _children(parent):
            if child not in found and not _has_ended(child):
                leader.look(child)
                found.append(child)
    return found


def _children(pid: int) -> list[int]:
    try:
        return procfs.children(pid)
    except _GONE:
        return []


def _has_ended(pid: int) -> bool:
    """A leader that has exited before its threads is shown as a zombie too, but has other tasks."""
    try:
        return procfs.state(pid) in "ZX" and procfs.threads(pid) in ([pid], [])
    except _GONE:
        return True


def freeze(pid: int) -> Tree:
    """Stop every task of ``pid`` and of all its descendants, also those that are born meanwhile.

    Raises Refused (then all have been let go again) when one cannot be stopped, or when they are born faster
    than they can be.
    """
    processes = {pid: one.freeze(pid)}
    ended: set[int] = set()
    give_up = time.monotonic() + _TIMEOUT_S
    try:
        while new := _not_yet(processes, ended):
            for child in new:
                if _has_ended(child):
                    ended.add(child)
                else:
                    _freeze_child(child, processes)
            if time.monotonic() > give_up:
                raise Refused(
                    f"it makes new processes faster than they can be stopped ({len(processes)} are)",
                    where=f"process {pid}",
                    way_out="try again when it is less busy",
                )
    except BaseException:
        for process in reversed(processes.values()):
            one.thaw(process)
        raise
    parents = {pid: procfs.stat(pid)["ppid"] for pid in processes}
    for group in kcmp.groups(list(processes), kcmp.VM):
        for member in group:
            processes[member].sharing = [processes[one] for one in group]
    return Tree(list(processes.values()), sorted(ended), parents)


def _not_yet(processes: dict[int, Process], ended: set[int]) -> list[int]:
    there = [child for pid in processes for child in _children(pid)]
    ended.intersection_update(there)  # a zombie of a process that was not frozen yet may have been waited for
    return [child for child in there if child not in processes and child not in ended]


def _freeze_child(child: int, processes: dict[int, Process]) -> None:
    try:
        processes[child] = one.freeze(child)
    except Refused:
        # One that is ending cannot be stopped any more, and is no zombie yet.
        give_up = time.monotonic() + _ENDING_S
        while not _has_ended(child):
            if time.monotonic() > give_up:
                raise
            time.sleep(_PAUSE_S)


def thaw(tree: Tree, just_before: Callable[[Tracee], None] | None = None) -> None:
    """Let all go, children before their parents; see freeze.thaw."""
    for process in reversed(tree.processes):
        one.thaw(process, just_before)


def confirm(tree: Tree) -> None:
    """Are all still there? Raises Gone when one has been killed (nothing else ends a frozen process)."""
    for process in tree.processes:
        one.confirm(process)


def end(tree: Tree) -> None:
    """Kill all and wait until they have ended. The parent of the root still gets its status.

    Should livecr die when it has killed the first, its guard ends the others: half a tree must not run on.
    """
    guard = None
    if len(tree.processes) > 1:
        with suppress(Failed):  # the kernel has no room for one more process: then it has to be quick
            guard = Guard([process.pidfd for process in tree.processes])
    for process in tree.processes:
        one.kill(process)
    if guard:
        guard.dismiss()
    for process in reversed(tree.processes):
        one.end(process)
