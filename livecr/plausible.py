"""Before a restore: does an image that is undamaged also make sense, and is the program's place free?

The digests tell that an image is as it was written, not who wrote it; so nothing that it says is used
before it has been looked at, here or where it is used. Called by restore.py.
"""

from __future__ import annotations

import os

from livecr.errors import BadImage, Refused
from livecr.kernel import procfs
from livecr.kinds import memory
from livecr.waits.clocks import MODELS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.content import Content
    from livecr.image.elfcore import Core
    from livecr.kinds import process

__all__ = ["check"]


def check(told: Content, core: Core) -> None:
    """Is everything there that the program needs, and is its place free?"""
    record = told.process
    tids = [thread.tid for thread in record.threads]
    if [thread.tid for thread in core.threads] != tids or record.session.pid != tids[0]:
        raise BadImage("its core file and its manifest are not of the same process", where=core.where)
    if told.time_model not in MODELS:
        raise BadImage(f"it wants a time model {told.time_model!r}", where=core.where)
    _check_ranges(record, core)
    _check_references(record, core)
    for tid in tids:
        _check_free(tid)
    memory.check(record.memory)


def _check_ranges(record: process.Process, core: Core) -> None:
    """Mappings ascend and lie in user space, and every page has a mapping to go to."""
    end = 0
    vmas = iter(record.memory.vmas)
    for vma in record.memory.vmas:
        if (
            vma.start < end
            or vma.end <= vma.start
            or vma.end > memory.USER_END
            or (vma.start | vma.end) & 4095
        ):
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


def _check_references(record: process.Process, core: Core) -> None:
    """Records name each other by their place in a list; a negative one would be taken from its end."""
    table = record.descriptors
    references = [(thread.credentials, record.credentials) for thread in record.threads]
    references += [(d.description, table.descriptions) for d in table.descriptors]  # type: ignore[misc]
    references += [(lock.description, table.descriptions) for lock in table.locks]  # type: ignore[misc]
    if any(not 0 <= index < len(there) for index, there in references):
        raise BadImage("its records do not fit together", where=core.where)


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
        else "end that process, or wait until it has ended",
    )
