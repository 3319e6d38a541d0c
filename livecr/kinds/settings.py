"""Settings of processes and of tasks that a task asks for and changes itself: prctl(2), arch_prctl(2).

One row each. Those of a whole process are in the record of the process, those of a task in the task's. A
restore sets only what differs from what the new process has, so that no right is needed without need.
Called by process.
"""

from __future__ import annotations

from livecr._native import ffi, lib
from livecr.errors import Obstacle
from livecr.kernel import procfs
from livecr.target.program import Program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from livecr.target.engine import Borrowed
    from livecr.target.spawn import Seed
    from livecr.target.tracee import Tracee

__all__ = ["PROCESS", "TASK", "load", "obstacles", "save"]

PROCESS, TASK = "process", "task"
#: When: with the rest; or last, since a change of credentials resets it, or it forbids what comes before.
_EARLY, _LATE = False, True
_OUT = -1  # in the arguments: where the kernel writes an int
_VALUE_BYTES = 8
_SPEC_PRCTL = 1  # PR_SPEC_PRCTL of what PR_GET_SPECULATION_CTRL tells: it can be set


class Setting:
    """``get``: the call's arguments, with _OUT where the value is written; without, it is returned.

    ``set``: the arguments that give it a value, () where it cannot or need not be set.
    """

    __slots__ = ("call", "get", "is_late", "name", "of", "set")

    def __init__(
        self,
        name: str,
        of: str,
        is_late: bool,
        get: tuple[int, ...],
        set: Callable[[int], tuple[int, ...]],
        call: str = "prctl",
    ) -> None:
        self.name = name
        self.of = of
        self.is_late = is_late
        self.get = get
        self.set = set
        self.call = call


def _speculation(which: int) -> Callable[[int], tuple[int, ...]]:
    return lambda value: (53, which, value & ~_SPEC_PRCTL) if value & _SPEC_PRCTL else ()


# PR_GET_… and PR_SET_… of <linux/prctl.h>, ARCH_… of <asm/prctl.h>; kernel/sys.c has them all.
_ROWS = (
    # name                   of       when    get         set
    Setting("child_subreaper",     PROCESS, _EARLY, (37, _OUT), lambda v: (36, v)),
    Setting("thp_disable",         PROCESS, _EARLY, (42,),      lambda v: (41, int(v > 0), v & 2)),
    Setting("memory_merge",        PROCESS, _LATE,  (68,),      lambda v: (67, v)),  # KSM for all mappings
    Setting("dumpable",            PROCESS, _LATE,  (3,),       lambda v: (4, v & 1)),  # 2: as strict
    Setting("mdwe",                PROCESS, _LATE,  (66,),      lambda v: (65, v)),
    Setting("parent_death_signal", TASK,    _LATE,  (2, _OUT),  lambda v: (1, v)),
    Setting("tsc",                 TASK,    _EARLY, (25, _OUT), lambda v: (26, v)),
    Setting("mce_kill",            TASK,    _EARLY, (34,),      lambda v: (33, int(v < 2), v % 2)),
    Setting("store_bypass",        TASK,    _LATE,  (52, 0),    _speculation(0)),
    Setting("indirect_branch",     TASK,    _LATE,  (52, 1),    _speculation(1)),
    Setting("l1d_flush",           TASK,    _LATE,  (52, 2),    _speculation(2)),
    Setting("cpuid",               TASK,    _EARLY, (0x1011,),  lambda v: (0x1012, v), "arch_prctl"),
)  # fmt: skip
_BY_NAME = {row.name: row for row in _ROWS}

#: PF_MEMALLOC_NOIO | PF_LOCAL_THROTTLE of <linux/sched.h>: PR_SET_IO_FLUSHER, which only few may ask for.
_IO_FLUSHER = 0x00080000 | 0x00100000
_NR_PRCTL, _SCHED_CORE, _SCHED_CORE_GET, _SCHED_CORE_THREAD = 157, 62, 0, 0
_ALL_ONES = 0xFFFFFFFFFFFFFFFF


def obstacles(pid: int) -> list[Obstacle]:
    """What of the CPU's features, or of the kernel's, livecr cannot give back."""
    found = []
    for tid in procfs.threads(pid):
        try:
            told = procfs.status(pid, tid)
            with open(f"/proc/{pid}/task/{tid}/stat", "rb") as file:
                flags = int(file.read().rpartition(b")")[2].split()[6])
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
        task = f"task {tid} of process {pid}"
        if features := told.get("x86_Thread_features", "").split():
            text = f"it uses {', '.join(features)} (control-flow enforcement)"
            found.append(Obstacle(task, text, "start it with GLIBC_TUNABLES=glibc.cpu.x86_shstk=off"))
        if int(told.get("untag_mask", "0xffffffffffffffff"), 16) != _ALL_ONES:
            text = "it has tagged addresses (ARCH_ENABLE_TAGGED_ADDR)"
            found.append(Obstacle(task, text, "this version of livecr cannot save that"))
        if flags & _IO_FLUSHER == _IO_FLUSHER:
            text = "it is an I/O flusher (PR_SET_IO_FLUSHER)"
            found.append(Obstacle(task, text, "this version of livecr cannot save that"))
        if _core_cookie(tid):
            text = "it shares a core only with its own kind (PR_SCHED_CORE)"
            found.append(Obstacle(task, text, "this version of livecr cannot save that"))
    return found


def _core_cookie(tid: int) -> int:
    """What only tasks that may run on one core at once have in common; 0 for none (core-scheduling.rst)."""
    cookie = ffi.new("uint64_t *")
    address = int(ffi.cast("uintptr_t", cookie))
    result = lib.lcr_syscall(_NR_PRCTL, _SCHED_CORE, _SCHED_CORE_GET, tid, _SCHED_CORE_THREAD, address, 0)
    # EINVAL without CONFIG_SCHED_CORE, ENODEV where no core has several threads.
    return int(cookie[0]) if result == 0 else 0


# -- saving ------------------------------------------------------------------------------------------------


def save(of: str, borrowed: Borrowed) -> dict[str, int]:
    """By name; what the kernel does not know is left out. ``of``: PROCESS or TASK."""
    results = borrowed.run(_asking(of, borrowed.scratch))
    return _values(of, results, borrowed.task.read(borrowed.scratch, _VALUE_BYTES * len(_ROWS)))


def _asking(of: str, room: int) -> Program:
    program = Program()
    for i, row in enumerate(_ROWS):
        if row.of == of:
            words = [room + _VALUE_BYTES * i if word == _OUT else word for word in row.get]
            program.add(row.call, *words, *(0,) * (5 - len(words)), must=False)
    return program


def _values(of: str, results: list[int], written: bytes) -> dict[str, int]:
    found = {}
    rows = [(i, row) for i, row in enumerate(_ROWS) if row.of == of]
    for (i, row), result in zip(rows, results, strict=True):
        if result >= 0:
            at = _VALUE_BYTES * i
            found[row.name] = int.from_bytes(written[at : at + 4], "little") if _OUT in row.get else result
    return found


# -- loading -----------------------------------------------------------------------------------------------


def load(of: str, wanted: dict[str, int], seed: Seed, task: Tracee, *, late: bool) -> None:
    """Set what differs. ``late``: those that come at the end, or the others."""
    room = seed.room(_VALUE_BYTES * len(_ROWS))
    results = seed.run(_asking(of, room), task)
    now = _values(of, results, task.read(room, _VALUE_BYTES * len(_ROWS)))
    program = Program()
    for name, value in wanted.items():
        row = _BY_NAME[name]
        words = row.set(value)
        if row.of == of and row.is_late == late and words and now.get(name) != value:
            program.add(row.call, *words, *(0,) * (5 - len(words)))
    seed.run(program, task)
