"""One process: the record that holds those of all its parts, and the order of saving and loading them.

The order of loading matters where one part resets another; each step says why it stands where it does.
"""

from __future__ import annotations

from livecr.errors import Refused
from livecr.image.elfcore import Mapping
from livecr.image.record import Record
from livecr.kernel import bpf, procfs
from livecr.kinds import (
    aio,
    births,
    cgroups,
    common,
    credentials,
    descriptors,
    fs_struct,
    inherited,
    keyrings,
    leaders,
    mapped_files,
    memory,
    numa,
    pages,
    pkeys,
    requests,
    scheduling,
    seccomp,
    sessions,
    settings,
    signals,
    stops,
    sysv,
    threads,
    timers,
    tls,
)
from livecr.target.engine import Engine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from livecr.errors import Obstacle
    from livecr.image.elfcore import Core
    from livecr.kernel.bpf import TaskState
    from livecr.kinds import unlinked
    from livecr.kinds.directories import Remaker, Saver
    from livecr.kinds.ticking import Ticking
    from livecr.target import process
    from livecr.target.engine import Borrowed
    from livecr.target.spawn import Seed
    from livecr.target.tracee import Registers, Tracee
    from livecr.waits.clocks import ProgramTime

__all__ = [
    *("Process", "core_mappings", "finish_memory", "load_memory", "load_rest", "load_tasks"),
    *("obstacles", "save"),
]


class Process(Record):
    """Everything of one process but the registers and pages, which are in the core file.

    ``inherited``: the memory that it shares with its parent; ``descriptors``: empty if the table is the
    parent's. ``stopped_by``: the signal that has stopped it, or 0; ``told_of``: its stopped children whose
    stop it has been told of.
    """

    place: births.Place
    stopped_by: int
    told_of: list[int]
    session: sessions.Session
    fs: fs_struct.FsStruct
    unshared_fs: list[fs_struct.Unshared]
    cgroups: list[cgroups.Membership]
    memory: memory.Memory
    inherited: list[inherited.Inherited]
    protection_keys: list[int]
    mapped_keys: list[list[int]]
    leader: leaders.ExitedLeader | None
    threads: list[threads.Thread]  # the leader first, unless it has exited
    actions: list[signals.Action]
    pending: list[bytes]
    interval_timers: list[timers.IntervalTimer]
    posix_timers: list[timers.PosixTimer]
    credentials: list[credentials.Credentials]
    session_keyring: int
    filters: list[seccomp.Filter]
    descriptors: list[descriptors.Descriptor]


def obstacles(pid: int, mappings: list[procfs.Mapping], filter_policy: str) -> list[Obstacle]:
    """Everything about a running process that could not be saved, kind by kind, but its descriptors.

    ``filter_policy``: one of target.seccomp.POLICIES.
    """
    seen = bpf.look(pid)
    found = sessions.obstacles(pid) + fs_struct.obstacles(pid) + keyrings.obstacles(pid, seen)
    found += settings.obstacles(pid) + cgroups.obstacles(pid) + numa.obstacles(pid)
    found += seccomp.obstacles(pid, filter_policy)
    found += timers.obstacles(pid)
    memory.look_ahead(mappings)
    found += mapped_files.obstacles(pid, mappings)
    return found + memory.obstacles(pid, mappings) + requests.obstacles(pid, mappings)


def save(
    frozen: process.Process,
    children: list[process.Process],
    place: births.Place,
    mappings: list[procfs.Mapping],
    known_memory: memory.Memory | None,
    kept: list[inherited.Inherited],
    table: list[descriptors.Descriptor],
    nameless: unlinked.Saver,
    directories: Saver,
    ticking: Ticking,
    seen: dict[int, TaskState],
    resume: Callable[[Registers], Registers],
) -> Process:
    """Describe a frozen process. ``resume``: the registers that the kernel would go on with from a stop's.

    ``children``: those that are frozen too; ``known_memory``: its memory, if it is another's too and
    saved already; ``kept``: the memory that it shares with its parent since a fork;
    ``nameless``: where mapped files go that no name leads to; ``directories``: where removed
    ones are told; ``ticking``: its timers and signals; ``seen``: what BPF has
    read of its tasks, by TID, or nothing. Raises Refused for what cannot be saved.
    """
    pid = frozen.pid
    in_the_way = sessions.obstacles(pid) + fs_struct.obstacles(pid) + timers.obstacles(pid)
    in_the_way += keyrings.obstacles(pid, seen)
    if in_the_way:
        raise Refused.because(in_the_way)
    saved: list[threads.Thread] = []
    filters, chains = seccomp.save(frozen)
    guards = pages.guards(pid, mappings)
    asked = _Asked(pid, seen)

    def save_task(task: Tracee, mask: int, borrowed: Borrowed | None) -> None:
        state = seen.get(task.tid)
        settings_ = asked.settings(task.tid, borrowed)
        told_of_task = (asked.credentials(task.tid, borrowed), chains[task.tid], ticking.pending[task.tid])
        saved.append(threads.save(task, mask, *told_of_task, settings_, state, borrowed))

    with Engine(frozen, resume, mappings) as engine:
        # The leader last: it then tells what the process has as a whole.
        for task in [*frozen.tasks[1:], frozen.leader]:
            if task is not frozen.leader and not frozen.compat and asked.knows(task.tid):
                save_task(task, task.signal_mask(), None)
                continue
            with engine.borrow(task) as borrowed:
                save_task(task, borrowed.mask, borrowed)
                if task is frozen.leader:
                    told = procfs.status(pid, task.tid)
                    tls.refuse_ldt(borrowed)
                    whole = {
                        "session": sessions.save(pid, borrowed),
                        "fs": fs_struct.save(pid, told, directories),
                        "memory": known_memory or memory.save(frozen, mappings, guards, nameless, borrowed),
                        "actions": signals.save_actions(borrowed, told),
                        "protection_keys": pkeys.save(
                            borrowed, mappings, confined=any(task.filters for task in frozen.tasks)
                        ),
                        "told_of": stops.told(children, borrowed),
                    }
    return Process(
        place=place,
        leader=leaders.save(pid, seen.get(pid)) if frozen.leader.tid != pid else None,
        stopped_by=frozen.stop_signal,
        unshared_fs=fs_struct.save_unshared(pid, [task.tid for task in frozen.tasks[1:]], directories),
        inherited=kept,
        mapped_keys=pkeys.save_mapped(mappings),
        threads=[saved[-1], *saved[:-1]],
        pending=ticking.pending[signals.SHARED],
        interval_timers=ticking.interval,
        posix_timers=ticking.posix,
        credentials=asked.all_credentials,
        session_keyring=keyrings.save(pid, seen),
        cgroups=cgroups.save(pid),
        filters=filters,
        descriptors=table,
        **whole,  # type: ignore[arg-type]
    )


class _Asked:
    """What tasks have said of themselves, for others of which BPF tells that they would say the same.

    To ask a task takes many switches to it, and programs have thousands that are all alike.
    """

    def __init__(self, pid: int, seen: dict[int, TaskState]) -> None:
        self._pid = pid
        self._seen = seen
        self._settings: dict[tuple[int, ...], dict[str, int]] = {}  # by TaskState.flags
        self._index: dict[tuple[int, ...], int] = {}  # of all_credentials, by TaskState.credentials
        self.all_credentials: list[credentials.Credentials] = []

    def knows(self, tid: int) -> bool:
        """Whether a task need not be lent out."""
        state = self._seen.get(tid)
        return state is not None and state.flags in self._settings

    def settings(self, tid: int, borrowed: Borrowed | None) -> dict[str, int]:
        """Those of a task."""
        state = self._seen.get(tid)
        if borrowed is None:
            assert state is not None
            return self._settings[state.flags]
        found = settings.save(settings.TASK, borrowed)
        if state is not None:
            self._settings[state.flags] = found
        return found

    def credentials(self, tid: int, borrowed: Borrowed | None) -> int:
        """The index of its credentials in ``all_credentials``."""
        state = self._seen.get(tid)
        if state is not None and state.credentials in self._index:
            return self._index[state.credentials]
        own = credentials.save(procfs.status(self._pid, tid), state, borrowed)
        if own not in self.all_credentials:
            self.all_credentials.append(own)
        index = self.all_credentials.index(own)
        if state is not None:
            self._index[state.credentials] = index
        return index


def core_mappings(mappings: list[procfs.Mapping]) -> list[Mapping]:
    """The VMAs as the core file's program headers tell them."""
    return [
        Mapping(
            m.start,
            m.end,
            sum(bit for letter, bit in zip(m.perms, (1, 2, 4), strict=False) if letter != "-"),
            m.path if m.path.startswith("/") else "",
            m.offset,
        )
        for m in mappings
        if m.path != "[vsyscall]"
    ]


# -- loading -----------------------------------------------------------------------------------------------


def load_memory(
    record: Process,
    core: Core,
    objects: sysv.Objects,
    seed: Seed,
    shared: dict[int, int],
    nameless: list[int],
    parents: memory.Memory | None,
) -> list[int]:
    """The address space with all its pages, still as it has to be to be inherited by children.

    ``nameless``: descriptors of the files in Content.unlinked; ``parents``: the memory that the seed was
    born with. Returns the digests of the core file's chunks.
    """
    holding = pages.holding(core, record.memory)
    memory.load(record.memory, seed, shared, nameless, holding, record.inherited, parents)
    objects.attach(record.memory.vmas, seed)
    digests = pages.load(core, record.memory, seed)
    seed.drop_fetched()
    seed.memory_of = record.place.pid
    return digests


def finish_memory(record: Process, core: Core, nameless: list[int], seed: Seed) -> None:
    """What children do not inherit, or shall not; then what the process has as a whole."""
    if common.MEMORY not in record.place.shares:
        memory.finish(record.memory, seed, core.auxv, pages.holding(core, record.memory), nameless)
        pkeys.load(record.protection_keys, record.mapped_keys, record.memory, seed)
        aio.load(record.memory.aio, record.memory.vmas, seed)
    sessions.load(record.session, seed)


def load_tasks(record: Process, seed: Seed, directories: Remaker) -> dict[int, Tracee]:
    """Threads, what each of them says to the kernel, and where they are. Returns the tasks by TID."""
    tasks = {} if record.leader else {record.place.pid: seed.leader}
    for thread in record.threads[len(tasks) :]:
        tasks[thread.tid] = seed.add_thread(thread.tid)
    for thread in record.threads:
        threads.load(thread, seed, tasks[thread.tid])
    if common.FS not in record.place.shares:
        fs_struct.load(record.fs, directories, seed)
    fs_struct.load_unshared(record.unshared_fs, directories, seed, tasks)
    if record.leader:
        leaders.load(record.leader, seed)
    return tasks


def load_rest(record: Process, seed: Seed, tasks: dict[int, Tracee], now: ProgramTime) -> list[str]:
    """Signals, timers, and last of all the credentials, since the steps before need livecr's own rights.

    Returns what could not be as it was, a sentence each.
    """
    warnings = cgroups.load(record.cgroups, seed)  # before the affinity, which a cpuset may limit
    seed.step_from_now()
    signals.load_actions(record.actions, seed)
    timers.load(record.interval_timers, record.posix_timers, seed, now)
    # After the actions: the kernel drops a queued signal when it is set to be ignored.
    signals.load_pending(record.pending, seed, seed.leader, shared=True)
    for thread in record.threads:
        threads.load_pending(thread, seed, tasks[thread.tid])
    sessions.load_limits(record.session, seed)
    chains = {thread.tid: thread.filters for thread in record.threads}
    strict = [thread.tid for thread in record.threads if thread.strict]
    seccomp.load(record.filters, chains, strict, seed, tasks)
    for thread in record.threads:
        credentials.load(record.credentials[thread.credentials], seed, tasks[thread.tid])
        scheduling.load(thread.scheduling, tasks[thread.tid].tid)
        settings.load(settings.TASK, thread.settings, seed, tasks[thread.tid], late=True)
    warnings += keyrings.compare(seed.pid, record.session_keyring)
    return warnings + sessions.load_last(record.session, seed, leads=record.place.sid == record.place.pid)
