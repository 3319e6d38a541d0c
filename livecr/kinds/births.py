"""The processes of a tree are born again: each of its own parent, in its session and its process group.

A session is inherited, and only a process itself can begin one; so who is in another session than its parent
is born before its parent begins that, or by the leader of its own session (CLONE_PARENT). Leaders that have
ended are stood in for by processes that live only so long (credentials(7), setsid(2), setpgid(2)).
"""

from __future__ import annotations

import os

from livecr.errors import Failed, Refused
from livecr.image.record import Record
from livecr.kernel import procfs
from livecr.kinds import common
from livecr.target.program import Program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from livecr.target.process import Tree
    from livecr.target.spawn import Seed

__all__ = ["Family", "Place", "is_born_of", "left_behind", "place_of", "save"]

CLONE_PARENT = 0x8000
PR_SET_CHILD_SUBREAPER = 36
_WALL = 0x40000000
_OUTSIDE = 0  # stands for the session and the group that livecr itself is in


class Place(Record):
    """Where a process stands among others. ``shares``: with its parent (kinds/common)."""

    pid: int
    ppid: int
    pgid: int
    sid: int
    exit_signal: int
    shares: list[str]


def save(frozen: Tree) -> dict[int, Place]:
    """Of a frozen tree, by PID. Raises Refused for what cannot be shared again."""
    in_the_way = common.obstacles(frozen.pids, before=False)
    if in_the_way:
        raise Refused.because(in_the_way)
    places: dict[int, Place] = {}
    for pid in frozen.pids:
        parent = procfs.stat(pid)["ppid"]
        places[pid] = place_of(pid, common.shares(pid, parent) if parent in places else [])
    return places


def is_born_of(place: Place, places: dict[int, Place]) -> bool:
    """Whether it will be born of its own parent, so that it can inherit memory."""
    parent = places.get(place.ppid)
    return parent is not None and place.sid in (place.pid, parent.sid)


def place_of(pid: int, shares: list[str]) -> Place:
    """Of a frozen process, or of one that has ended."""
    told = procfs.stat(pid)
    return Place(
        pid=pid,
        ppid=told["ppid"],
        pgid=told["pgrp"],
        sid=told["session"],
        exit_signal=told["exit_signal"],
        shares=shares,
    )


def left_behind(places: list[Place]) -> list[int]:
    """Sessions and groups whose leader has ended, and to which nobody else belongs: the tree brings them."""
    own = {place.pid for place in places}
    numbers = {n for place in places for n in (place.sid, place.pgid)} - own
    # Nobody gets the number of a session or group that there is, so who has it leads it.
    numbers = {n for n in numbers if not os.path.exists(f"/proc/{n}")}
    for name in os.listdir("/proc") if numbers else ():
        if name.isdigit() and int(name) not in own:
            try:
                told = procfs.stat(int(name))
            except (FileNotFoundError, ProcessLookupError):
                continue
            numbers -= {int(name), told["session"], told["pgrp"]}
    return sorted(numbers)


class Family:
    """The processes on their way, by their numbers in the image.

    ``seeds``: those of the tree, parents before their children.
    """

    def __init__(
        self,
        places: list[Place],
        left: list[int],
        fill: Callable[[int, Seed], None],
        in_session: Callable[[int, Seed], None],
    ) -> None:
        """``fill(pid, seed)`` is called with each that is born, before its children are; ``in_session``
        with each that has begun a session, before it has children there."""
        self.seeds: dict[int, Seed] = {}
        self._places = {place.pid: place for place in places}
        self._root = places[0].pid
        self._left = set(left)
        self._fill = fill
        self._in_session = in_session
        self._session: dict[int, int] = {}  # which each is in now
        self._leaders: dict[int, tuple[int, Seed]] = {}  # of sessions: the leader's parent, and the leader
        self._stand_ins: list[tuple[Seed, Seed | None]] = []  # and their parents

    @property
    def first(self) -> int:
        """The number that the very first process must have."""
        sid = self._places[self._root].sid
        return sid if sid in self._left else self._root

    def grow(self, first: Seed) -> None:
        """Let all be born, descendants of ``first``, which has the number ``first``. Raises Failed."""
        if self.first != self._root:
            self._begin_session(self.first, 0, first)
            self._stand_ins.append((first, None))
            first = first.fork(self._root, flags=CLONE_PARENT, exit_signal=0)
            self._session[self._root] = self.first
        self.seeds[self._root] = first
        self._session.setdefault(self._root, _OUTSIDE)
        waiting, later = [self._root], []
        while waiting:
            pid = waiting.pop()
            later += self._live(pid, waiting)
            if not waiting and later:
                waiting, later = self._bear_elsewhere(later)
        self._join_groups()
        while self._stand_ins:
            self._dismiss(*self._stand_ins.pop())

    # -- being born --------------------------------------------------------------------------------------

    def _live(self, pid: int, born: list[int]) -> list[int]:
        """One process: its memory, its children, its session. Returns the children it cannot have itself."""
        seed, place = self.seeds[pid], self._places[pid]
        self._fill(pid, seed)
        children = [child for child in self._places.values() if child.ppid == pid and child.pid != self._root]
        if place.sid == pid:
            for child in children:
                if child.sid != child.pid and self._number(child.sid) == self._session[pid]:
                    born.append(self._bear(child, seed, pid))
            self._begin_session(pid, place.ppid, seed)
        here = (self._session[pid],)
        for child in children:
            if child.pid not in self.seeds and (child.sid == child.pid or self._number(child.sid) in here):
                born.append(self._bear(child, seed, pid))
        return [child.pid for child in children if child.pid not in self.seeds]

    def _bear(self, child: Place, parent: Seed, parent_pid: int) -> int:
        flags = common.clone_flags(child.shares)
        self.seeds[child.pid] = parent.fork(child.pid, flags=flags, exit_signal=child.exit_signal)
        self._session[child.pid] = self._session[parent_pid]
        return child.pid

    def _begin_session(self, pid: int, ppid: int, seed: Seed) -> None:
        program = Program()
        program.add("setsid")
        seed.run(program)
        self._in_session(pid, seed)
        self._session[pid] = pid
        self._leaders[pid] = ppid, seed

    def _number(self, session_or_group: int) -> int:
        known = session_or_group in self._places or session_or_group in self._left
        return session_or_group if known else _OUTSIDE

    # -- in another session than the parent's ------------------------------------------------------------

    def _bear_elsewhere(self, pids: list[int]) -> tuple[list[int], list[int]]:
        """Those whose session has a leader by now, and those that have to wait. Raises Failed if all do."""
        born, later = [], []
        for pid in pids:
            place = self._places[pid]
            if place.sid in self._left and place.sid not in self._leaders:
                self._stand_in_for_leader(place)
            if place.sid in self._leaders:
                self._bear_by_leader(place)
                born.append(pid)
            else:
                later.append(pid)
        if not born:
            raise Failed(
                f"it is in session {self._places[pids[0]].sid}, which it cannot be put into again",
                where=f"process {pids[0]}",
            )
        return born, later

    def _stand_in_for_leader(self, place: Place) -> None:
        parent = self.seeds[place.ppid]
        stand_in = parent.fork(place.sid, exit_signal=place.exit_signal)
        self._begin_session(place.sid, place.ppid, stand_in)
        self._stand_ins.append((stand_in, parent))

    def _bear_by_leader(self, place: Place) -> None:
        ppid, leader = self._leaders[place.sid]
        if place.shares:
            raise Failed(
                "it cannot be born of its parent, with which it shares", where=f"process {place.pid}"
            )
        if ppid == place.ppid:
            child = leader.fork(place.pid, flags=CLONE_PARENT, exit_signal=0)
        else:
            child = self._bear_orphan(place, leader)
        self.seeds[place.pid] = child
        self._session[place.pid] = place.sid

    def _bear_orphan(self, place: Place, leader: Seed) -> Seed:
        """Its first parent has ended, and an ancestor has taken it (PR_SET_CHILD_SUBREAPER)."""
        reaper = self.seeds[place.ppid]
        _set_subreaper(reaper, 1)
        first_parent = leader.fork(exit_signal=0)
        child = first_parent.fork(place.pid, exit_signal=place.exit_signal)
        self._dismiss(first_parent, leader)
        _set_subreaper(reaper, 0)
        if procfs.stat(child.pid)["ppid"] != reaper.pid:
            raise Failed(f"process {place.ppid} is no ancestor of its session", where=f"process {place.pid}")
        return child

    # -- process groups ----------------------------------------------------------------------------------

    def _join_groups(self) -> None:
        for place in self._places.values():
            if place.pgid == place.pid != place.sid:
                _set_group(self.seeds[place.pid], 0)
        made: set[int] = set()
        for place in self._places.values():
            group, seed = self._number(place.pgid), self.seeds[place.pid]
            if group == place.pid:
                continue
            if group in self._left and group not in made and group not in self._leaders:
                stand_in = seed.fork(group, exit_signal=0)
                _set_group(stand_in, 0)
                self._stand_ins.append((stand_in, seed))
            made.add(group)
            if group != _OUTSIDE:
                _set_group(seed, group)
            elif self._session[place.pid] == _OUTSIDE and os.getpgid(seed.pid) != os.getpgid(0):
                _set_group(seed, os.getpgid(0))

    def _dismiss(self, stand_in: Seed, parent: Seed | None) -> None:
        ending = Program()
        ending.add("exit_group", 0)
        stand_in.end(ending)
        if parent is not None:
            program = Program()
            program.add("wait4", stand_in.pid, 0, _WALL, 0)
            parent.run(program)


def _set_group(seed: Seed, group: int) -> None:
    program = Program()
    program.add("setpgid", 0, group)
    seed.run(program)


def _set_subreaper(seed: Seed, value: int) -> None:
    program = Program()
    program.add("prctl", PR_SET_CHILD_SUBREAPER, value, 0, 0, 0)
    seed.run(program)
