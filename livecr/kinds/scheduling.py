"""How each task is scheduled: sched(7), sched_setattr(2), ioprio_set(2), CPU affinity. All from outside.

Utilization clamps are set only where the kernel has them. Called by threads.
"""

from __future__ import annotations

import os
from struct import Struct

from livecr._native import ffi, lib
from livecr.errors import Failed
from livecr.image.record import Record

__all__ = ["Scheduling", "load", "save"]

_NR_SCHED_SETATTR, _NR_SCHED_GETATTR = 314, 315
_NR_IOPRIO_GET, _NR_IOPRIO_SET, _IOPRIO_WHO_PROCESS = 252, 251, 1
# struct sched_attr of <linux/sched/types.h>: size, policy, flags, nice, priority, three times, two clamps.
_ATTR = Struct("<IIQiIQQQII")
_CLAMPS = 0x60  # SCHED_FLAG_UTIL_CLAMP_MIN | SCHED_FLAG_UTIL_CLAMP_MAX
#: Of the flags that sched_getattr tells those that are a setting.
_KEPT_FLAGS = 0x01 | 0x02 | 0x04  # RESET_ON_FORK, RECLAIM, DL_OVERRUN


class Scheduling(Record):
    """``flags``: SCHED_FLAG_*. ``runtime_ns``, ``deadline_ns``, ``period_ns``: of SCHED_DEADLINE; of the fair
    policies ``runtime_ns`` is the slice. ``utilization``: the clamps, at least and at most, of 1024."""

    policy: int
    flags: int
    nice: int
    priority: int
    runtime_ns: int
    deadline_ns: int
    period_ns: int
    utilization: list[int]
    affinity: list[int]
    io_priority: int


def save(tid: int) -> Scheduling:
    """Of any task."""
    buffer = ffi.new("char[]", _ATTR.size)
    result = lib.lcr_syscall(_NR_SCHED_GETATTR, tid, _address(buffer), _ATTR.size, 0, 0, 0)
    if result < 0:
        raise Failed(f"sched_getattr: {os.strerror(-result)}", where=f"task {tid}")
    _, policy, flags, nice, priority, runtime, deadline, period, *clamps = _ATTR.unpack(ffi.buffer(buffer))
    return Scheduling(
        policy=policy,
        flags=flags & _KEPT_FLAGS,
        nice=nice,
        priority=priority,
        runtime_ns=runtime,
        deadline_ns=deadline,
        period_ns=period,
        utilization=clamps,
        affinity=sorted(os.sched_getaffinity(tid)),
        io_priority=lib.lcr_syscall(_NR_IOPRIO_GET, _IOPRIO_WHO_PROCESS, tid, 0, 0, 0, 0),
    )


def load(wanted: Scheduling, tid: int) -> None:
    """CPUs that this machine does not have are left out, unless none would be left."""
    now = save(tid)
    cpus = set(wanted.affinity) & set(range(os.cpu_count() or 1))
    if cpus and cpus != set(now.affinity):
        os.sched_setaffinity(tid, cpus)
    if _attributes(now) != _attributes(wanted):
        differ = now.utilization != wanted.utilization
        raw = _ATTR.pack(
            _ATTR.size,
            wanted.policy,
            wanted.flags & _KEPT_FLAGS | (_CLAMPS if differ else 0),
            wanted.nice,
            wanted.priority,
            wanted.runtime_ns,
            wanted.deadline_ns,
            wanted.period_ns,
            *wanted.utilization,
        )
        buffer = ffi.new("char[]", raw)
        result = lib.lcr_syscall(_NR_SCHED_SETATTR, tid, _address(buffer), 0, 0, 0, 0)
        if result < 0:
            what = f"sched_setattr (policy {wanted.policy}): {os.strerror(-result)}"
            raise Failed(what, where=f"task {tid}")
    if now.io_priority != wanted.io_priority:
        result = lib.lcr_syscall(_NR_IOPRIO_SET, _IOPRIO_WHO_PROCESS, tid, wanted.io_priority, 0, 0, 0)
        if result < 0:
            raise Failed(f"ioprio_set({wanted.io_priority:#x}): {os.strerror(-result)}", where=f"task {tid}")


def _attributes(one: Scheduling) -> tuple[object, ...]:
    times = (one.runtime_ns, one.deadline_ns, one.period_ns)
    return (one.policy, one.flags, one.nice, one.priority, *times, one.utilization)


def _address(buffer: object) -> int:
    return int(ffi.cast("uintptr_t", buffer))
