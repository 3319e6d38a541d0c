"""Before a restore: does an image that is undamaged also make sense, and is the program's place free?

The digests tell that an image is as it was written, not who wrote it; so nothing that it says is used
before it has been looked at, here or where it is used. Called by restore.py.
"""

from __future__ import annotations

import os
import time

from livecr.errors import BadImage, Refused
from livecr.kernel import clock, cpu_clock, procfs
from livecr.kinds import common, leaders, memory, seccomp, sysv_shm
from livecr.waits.clocks import MODELS
from livecr.waits.wishes import ORIGINS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.content import Content
    from livecr.image.elfcore import Core
    from livecr.kinds import process

__all__ = ["all_numbers", "check"]

_INIT_WAITS_S = 5.0
_PAUSE_S = 0.005
_TERMINAL_BYTES = [44, 36, 8]  # struct termios2, termios, winsize


def check(told: Content, cores: dict[int, Core], image: str, *, leaves: bool = False) -> None:
    """Is everything there that the program needs, and is its place free? ``cores``: by PID.

    ``leaves``: its parent, livecr, is about to end.
    """
    if told.time_model not in MODELS or told.time_model_from not in ORIGINS:
        raise BadImage(f"it wants a time model {told.time_model!r}", where=image)
    _check_tree(told, image)
    for record in told.processes:
        core = cores[record.place.pid]
        tids = [thread.tid for thread in record.threads]
        if (
            [thread.tid for thread in core.threads] != tids
            or not tids
            or _has_leader(record) == (record.leader is not None)
        ):
            raise BadImage("its core file and its manifest are not of the same process", where=core.where)
        if record.leader is not None:
            leaders.check(record.leader, core.where)
        _check_shared(told, record, core)
        _check_abi(told, record, core)
        _check_ranges(record, core)
        _check_segments(told, record, core)
        chains = [thread.filters for thread in record.threads]
        seccomp.check(record.filters, chains, [thread.strict for thread in record.threads], core.where)
    _check_references(told, image)
    _wait_for_zombies(all_numbers(told))
    for tid in all_numbers(told):
        _check_free(tid)
    for record in told.processes:
        if common.MEMORY not in record.place.shares:
            memory.check(record.memory)
    _check_clocks(told)
    if leaves:
        _check_parent(told.processes[0])


def _check_shared(told: Content, record: process.Process, core: Core) -> None:
    """Memory that is the parent's is described as that is, and has its pages there."""
    parent = next((one for one in told.processes if one.place.pid == record.place.ppid), None)
    shares = record.place.shares
    common.check(shares, has_parent=parent is not None, where=core.where)
    if (
        parent is not None
        and common.MEMORY in shares
        and (record.memory != parent.memory or record.inherited or core.run_count)
    ):
        raise BadImage("its memory is not its parent's", where=core.where)


def _has_leader(record: process.Process) -> bool:
    return record.threads[0].tid == record.place.pid


def _check_clocks(told: Content) -> None:
    """The CPU clock of a process that is not in the image went on without it; no other can take its place."""
    used = [(f"task {w.tid} sleeps", w.tid, w.wait.clock, w.wait.clock_owner) for w in told.waits]
    for record in told.processes:
        pid = record.place.pid
        used += [(f"POSIX timer {t.id} is", pid, t.clock, t.clock_owner) for t in record.posix_timers]
    own = {*(record.place.pid for record in told.processes), *(zombie.place.pid for zombie in told.zombies)}
    for what, user, clock_id, owner in used:
        counted = cpu_clock.decode(clock_id, user) if owner and clock_id is not None else None
        if counted is None or counted.pid in own:
            continue
        try:
            there = cpu_clock.born(counted.pid) == owner
        except OSError:
            there = False
        if not there:
            raise Refused(
                f"{what} on {clock.clock_name(clock_id or 0)}, and that process has ended",
                where=f"process {user}" if "timer" in what else f"task {user}",
                way_out="it can only be restored while that process lives",
            )


def _check_parent(root: process.Process) -> None:
    """Whether the root would be sent a signal as livecr, its parent, ends."""
    for thread in root.threads:
        if number := thread.settings.get("parent_death_signal", 0):
            raise Refused(
                f"it is to be sent signal {number} when its parent ends (PR_SET_PDEATHSIG): that is livecr",
                where=f"task {thread.tid} of process {root.place.pid}",
                way_out="restore it without --detach, so that livecr stays, or with --new-pid-namespace, "
                "whose init does",
            )


def all_numbers(told: Content) -> list[int]:
    """All that the program will have, or that have to be free while it is made."""
    numbers = [thread.tid for record in told.processes for thread in record.threads]
    numbers += [record.place.pid for record in told.processes if record.leader is not None]
    return [*numbers, *(zombie.place.pid for zombie in told.zombies), *told.left_behind]


def _check_tree(told: Content, image: str) -> None:
    """Every number once, and every process but the root with a parent that comes before it."""
    numbers = all_numbers(told)
    if not told.processes or len(set(numbers)) != len(numbers) or min(numbers) < 2:
        raise BadImage("its processes and threads are not told apart", where=image)
    seen = {told.processes[0].place.pid}
    for place in [*(record.place for record in told.processes[1:]), *(z.place for z in told.zombies)]:
        if place.ppid not in seen:
            raise BadImage(f"process {place.pid} has no parent", where=image)
        if place.pid not in {zombie.place.pid for zombie in told.zombies}:
            seen.add(place.pid)


def _check_abi(told: Content, record: process.Process, core: Core) -> None:
    """One kind of program, and all calls by its convention."""
    wanted, tids = record.memory.abi, {thread.tid for thread in record.threads}
    calls = {waiting.wait.abi for waiting in told.waits if waiting.tid in tids}
    if wanted not in memory.USER_END or calls - {wanted}:
        raise BadImage("its records do not fit together: it is of no kind of program", where=core.where)


def _check_ranges(record: process.Process, core: Core) -> None:
    """Mappings ascend and lie in user space, and every page has a mapping to go to."""
    end, user_end = 0, memory.USER_END[record.memory.abi]
    vmas = iter(record.memory.vmas)
    for vma in record.memory.vmas:
        if vma.start < end or vma.end <= vma.start or vma.end > user_end or (vma.start | vma.end) & 4095:
            raise BadImage(f"a mapping at {vma.start:#x} is out of order", where=core.where)
        if vma.kind == "file" and not 0 <= vma.file < len(record.memory.files):
            raise BadImage(f"the mapping at {vma.start:#x} names no file", where=core.where)
        end = vma.end
    current = next(vmas, None)
    for i in range(core.run_count):
        run = core.runs[i]
        while current is not None and current.end <= run.start:
            current = next(vmas, None)
        if current is None or run.start < current.start or run.end > current.end:
            raise BadImage(f"pages at {run.start:#x} belong to no mapping", where=core.where)


def _check_segments(told: Content, record: process.Process, core: Core) -> None:
    """Mappings of System V segments name one, and show no more than it has."""
    sizes = {segment.id: segment.size_bytes for segment in told.sysv.segments}
    for vma in record.memory.vmas:
        if vma.kind == sysv_shm.KIND and (
            vma.offset < 0 or vma.offset + vma.end - vma.start > sizes.get(vma.file, -1) + 4095 & ~4095
        ):
            raise BadImage(f"the mapping at {vma.start:#x} shows no segment", where=core.where)


def _check_references(told: Content, image: str) -> None:
    """Records name each other by their place in a list; a negative one would be taken from its end."""
    count = len(told.table.descriptions)
    references = [(d.description, count) for record in told.processes for d in record.descriptors]
    references += [(lock.description, count) for lock in told.table.locks]
    placed = [record.fs for record in told.processes]
    placed += [one.fs for record in told.processes for one in record.unshared_fs]
    removed = [place.removed for fs in placed for place in (fs.root, fs.cwd)]
    removed += [getattr(one, "removed", -1) for one in told.table.descriptions]
    references += [(place, len(told.removed)) for place in removed if place != -1]
    for record in told.processes:
        mapped = [*record.memory.files, record.memory.exe]
        references += [(file.unlinked, len(told.unlinked)) for file in mapped if file.unlinked != -1]
        references += [(thread.credentials, len(record.credentials)) for thread in record.threads]
    terminals = told.table.terminals
    named = [getattr(one, "terminal", None) for one in told.table.descriptions]
    references += [(owner.description, count) for owner in told.table.signal_owners]
    references += [(lease.description, count) for lease in told.table.leases]
    messages = [one for d in told.table.descriptions for one in getattr(d, "messages", [])]
    references += [(place, count) for message in messages for place in getattr(message, "descriptors", [])]
    references += [(place, len(terminals)) for place in named if place is not None]
    if any(not 0 <= index < length for index, length in references):
        raise BadImage("its records do not fit together", where=image)
    pids = {record.place.pid for record in told.processes}
    groups = {record.place.pgid for record in told.processes} | {0}
    for terminal in terminals:
        sizes = [len(told) for told in (terminal.termios, terminal.locked, terminal.window)]
        if (
            sizes != _TERMINAL_BYTES
            or not pids.issuperset(terminal.holders)
            or terminal.foreground not in groups
        ):
            raise BadImage(f"the terminal {terminal.path} does not fit to it", where=image)


def _wait_for_zombies(numbers: list[int]) -> None:
    """Processes of the program that were killed by its checkpoint: init may not have waited for all yet."""
    give_up = time.monotonic() + _INIT_WAITS_S
    for number in numbers:
        while _has_ended(number) and time.monotonic() < give_up:
            time.sleep(_PAUSE_S)


def _has_ended(number: int) -> bool:
    try:
        return procfs.state(number) in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _check_free(tid: int) -> None:
    if not os.path.exists(f"/proc/{tid}"):
        return
    import psutil  # only here: it takes as long to import as all else in a restore

    try:
        task = procfs.status(tid)
        owner = psutil.Process(int(task["Tgid"]))
        name = f"process {owner.pid}, {owner.name()}, of {owner.username()}"
        ended = owner.status() == psutil.STATUS_ZOMBIE
        if ended:
            name += f" (it has ended; its parent {owner.ppid()} has not waited for it)"
    except (OSError, psutil.Error):
        return  # it has just gone
    raise Refused(
        f"its number {tid} is taken by {name}",
        where=f"task {tid}",
        way_out="wait until it has been waited for"
        if ended
        else "end that process, or wait until it has ended; or restore the program into a PID namespace of "
        "its own, where all numbers are free: --new-pid-namespace",
    )
