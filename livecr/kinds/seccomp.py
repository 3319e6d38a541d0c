"""seccomp(2) filters: each task has a chain of them, which children and new threads inherit.

They are made again by the tasks themselves, suspended until the program is let go (target/seccomp). What may
not be made again: a filter whose calls a supervisor decides (SECCOMP_FILTER_FLAG_NEW_LISTENER). Strict mode
has no filters. Called by process and check.
"""

from __future__ import annotations

import os

from livecr.errors import BadImage, Failed, Obstacle, Refused
from livecr.image.record import Record
from livecr.kernel import procfs
from livecr.kernel.bpf import Unavailable
from livecr.kernel.peek import Peek
from livecr.kernel.seccomp import MODE_STRICT, Filters, Strict
from livecr.target import seccomp, tracee
from livecr.target.program import NR, Program
from livecr.waits import confined

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.target.process import Process
    from livecr.target.spawn import Seed
    from livecr.target.tracee import Tracee

__all__ = ["Filter", "check", "load", "obstacles", "save", "shared_by_some"]

#: The calls that a checkpoint makes in any process; whatever it makes besides is looked at in time.
ALWAYS_MADE = ("mmap", "sigaltstack", "prctl", "arch_prctl", "getitimer", "rt_sigaction", "brk", "modify_ldt")
MADE_FOR_TIMERS = ("timer_gettime", "timer_getoverrun")
SECCOMP_SET_MODE_STRICT, SECCOMP_SET_MODE_FILTER = 0, 1
#: SECCOMP_FILTER_FLAG_*. SPEC_ALLOW: what a filter did to speculation is a setting of its own.
TSYNC, LOG, SPEC_ALLOW = 1, 2, 4
_INSTRUCTION_BYTES = 8
_INSTRUCTIONS_MAX = 4096  # BPF_MAXINSNS
_PIDFD_THREAD = os.O_EXCL  # of pidfd_open(2) (6.9)
_GONE = (FileNotFoundError, ProcessLookupError)


class Filter(Record):
    """``program``: an array of struct sock_filter. ``log``: SECCOMP_FILTER_FLAG_LOG."""

    program: bytes
    log: bool


# -- before the freeze -------------------------------------------------------------------------------------


def obstacles(pid: int, policy: str) -> list[Obstacle]:
    """Of a running process: what its filters would do to it when it is frozen, or livecr is killed, unless
    ``policy`` (of target/seccomp) takes that risk.

    A freeze alone makes some calls go on as restart_syscall(2), so they must be known before.
    """
    found: dict[str, Obstacle] = {}
    for tid in procfs.threads(pid):
        try:
            mode = int(procfs.status(pid, tid).get("Seccomp", "0"))
            if mode:
                where = f"task {tid} of process {pid}"
                for refused in _of_task(pid, tid, mode, where, policy):
                    found.setdefault(refused.what, Obstacle(refused.where, refused.what, refused.way_out))
        except _GONE:
            continue  # it has just ended
    return list(found.values())


def _of_task(pid: int, tid: int, mode: int, where: str, policy: str) -> list[Refused]:
    if mode == MODE_STRICT:
        takes_risk = policy == seccomp.SUSPEND
        return confined.of_running(pid, tid, Strict()) if takes_risk else [seccomp.strict(where)]
    try:
        filters = Filters(_read(tid))
    except (Failed, OSError, Unavailable) as why:
        return [
            Refused(
                f"it is confined by seccomp filters, which only BPF tells of a running task ({why})",
                where=where,
                way_out="let `livecr doctor` say why BPF cannot be used",
            )
        ]
    if filters.asks():
        return [_asks(where)]
    if policy == seccomp.SUSPEND:
        return confined.of_running(pid, tid, filters)
    found = [
        seccomp.refusal(filters, name, number, where)
        for name, number in seccomp.WAY_BACK.items()
        if not filters.allows(number)
    ]
    made = ALWAYS_MADE + (MADE_FOR_TIMERS if procfs.posix_timers(pid) else ())
    found += [seccomp.refusal(filters, name, NR[name], where) for name in made if filters.harms(NR[name])]
    return found or confined.of_running(pid, tid, filters)


def _read(tid: int) -> list[bytes]:
    """Of a running task. Of one that is no process of its own the kernel may know no pidfd (before 6.9)."""
    peek = Peek.open()
    pidfd = os.pidfd_open(tid, 0 if procfs.status(tid)["Tgid"] == str(tid) else _PIDFD_THREAD)
    try:
        return peek.filters(pidfd)
    finally:
        os.close(pidfd)


def _asks(where: str) -> Refused:
    return Refused(
        "a supervisor decides its calls (SECCOMP_FILTER_FLAG_NEW_LISTENER)",
        where=where,
        way_out="start it without that supervisor: the kernel does not tell which one it is",
    )


# -- in the freeze -----------------------------------------------------------------------------------------


def save(frozen: Process) -> tuple[list[Filter], dict[int, list[int]]]:
    """All filters of a process, and by TID which of them a task has, the oldest first."""
    known: list[Filter] = []
    chains: dict[int, list[int]] = {}
    for task in frozen.tasks:
        chains[task.tid] = []
        if task.filters is None:
            continue
        if task.filters.asks():
            raise _asks(f"task {task.tid} of process {task.pid}")
        for i, program in enumerate(task.filters.programs):
            own = Filter(program=program, log=i in task.logged_filters)
            if own not in known:
                known.append(own)
            chains[task.tid].append(known.index(own))
    return known, chains


def check(filters: list[Filter], chains: list[list[int]], strict: list[bool], where: str) -> None:
    """Raises BadImage unless the records of a process can be filters."""
    sizes = {len(one.program) for one in filters}
    numbers = {number for chain in chains for number in chain}
    if any(is_strict and chain for is_strict, chain in zip(strict, chains, strict=True)):
        raise BadImage("a task is in seccomp's strict mode and has filters", where=where)
    if any(size % _INSTRUCTION_BYTES or not 0 < size <= 8 * _INSTRUCTIONS_MAX for size in sizes) or not (
        numbers <= set(range(len(filters)))
    ):
        raise BadImage("its seccomp filters are damaged", where=where)


# -- loading -----------------------------------------------------------------------------------------------


def load(
    filters: list[Filter],
    chains: dict[int, list[int]],
    strict: list[int],
    seed: Seed,
    tasks: dict[int, Tracee],
) -> None:
    """``chains``: by TID in the image; ``strict``: the TIDs of those in strict mode. While livecr traces them
    nothing is enforced.

    Before the credentials: a task without no_new_privs may add no filter when it has lost CAP_SYS_ADMIN.
    What all tasks have in common they share again, so that SECCOMP_FILTER_FLAG_TSYNC works as it did.
    """
    if not filters and not strict:
        return
    for tid, chain in chains.items():
        if chain or tid in strict:
            tasks[tid].request(tracee.SETOPTIONS, 0, seed.options | tracee.O_SUSPEND_SECCOMP)
    common = _common(list(chains.values()))
    for number in common:
        _add(filters[number], TSYNC, seed, seed.leader)
    for tid, chain in chains.items():
        for number in chain[len(common) :]:
            _add(filters[number], 0, seed, tasks[tid])
    entering = Program()
    entering.add("seccomp", SECCOMP_SET_MODE_STRICT, 0, 0)
    for tid in strict:
        seed.run(entering, tasks[tid])


def shared_by_some(chains: list[list[int]]) -> bool:
    """Whether tasks had more in common than all tasks had, which they will share no more."""
    rest = [tuple(chain[len(_common(chains)) :]) for chain in chains]
    firsts = [chain[0] for chain in rest if chain]
    return len(firsts) != len(set(firsts))


def _common(chains: list[list[int]]) -> list[int]:
    """What all begin with."""
    first, length = chains[0], min(len(chain) for chain in chains)
    different = (i for i in range(length) if any(chain[i] != first[i] for chain in chains))
    return first[: next(different, length)]


def _add(one: Filter, flags: int, seed: Seed, task: Tracee) -> None:
    program_at = seed.put(one.program)
    count = len(one.program) // _INSTRUCTION_BYTES
    fprog = count.to_bytes(8, "little") + program_at.to_bytes(8, "little")  # struct sock_fprog
    program = Program()
    flags |= SPEC_ALLOW | (LOG if one.log else 0)
    program.add("seccomp", SECCOMP_SET_MODE_FILTER, flags, seed.put(fprog))
    (result,) = seed.run(program, task)
    if result:
        raise Failed(f"seccomp: task {result} cannot have the filters again", where=f"process {seed.pid}")
