"""`livecr show`: what is in an image, every byte of which is checked first."""

from __future__ import annotations

import os
import time

from livecr.cli import arguments
from livecr.cli.show_descriptors import at, descriptors
from livecr.cli.show_sysv import sysv
from livecr.cli.signal_names import signal_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar

    from livecr.cli.terminal import Table
    from livecr.content import Content
    from livecr.image.elfcore import Core
    from livecr.kinds.memory import Vma
    from livecr.kinds.process import Process

    T = TypeVar("T")

__all__ = ["describe", "run"]

USAGE = """usage: livecr show IMAGE [--json]

Tell what is in the directory IMAGE, once all of it has been checked: the process, its threads and their
waits, memory by kind, descriptors, signals and timers. Exit code 5: it is damaged, or no image of livecr.

  --json   for programs; times in ns, sizes in bytes"""

_NS = 1_000_000_000
_SIG_IGN = 1
_ITIMERS = ("ITIMER_REAL", "ITIMER_VIRTUAL", "ITIMER_PROF")
_ARGUMENTS_BYTES_MAX = 1 << 20
# How a program can wish for a time model (waits/wishes), in words.
_WISHED_BY = {
    "environment": "as LIVECR_TIME_MODEL in its environment wishes",
    "mapping": "as the name of a mapping wishes",
    "memfd": "as the name of a memfd wishes",
}


def run(words: list[str]) -> int:
    """The command."""
    given = arguments.parse(words, USAGE, operand="IMAGE", options=("json",))
    if given is None:
        return 0
    from livecr.cli.terminal import print_json, print_tables

    told = describe(given.operand)
    if "json" in given:
        print_json(told)
    else:
        print_tables(_tables(told))
    return 0


# -- what is told ------------------------------------------------------------------------------------------


def describe(image: str) -> dict[str, Any]:
    """Everything that is shown, as plain values: times in ns, sizes in bytes. Raises BadImage."""
    from livecr.content import Content
    from livecr.image import integrity, manifest

    told = manifest.read(image, Content)
    integrity.verify(image, told.files)
    content = told.content
    return {
        "image": os.path.abspath(image),
        "livecr": told.livecr,
        "kernel": told.kernel,
        "created": told.created,
        "size_bytes": sum(file.size_bytes for file in told.files),
        "frozen_at_ns": content.frozen_at.realtime_ns,
        "time_model": content.time_model,
        "time_model_from": content.time_model_from,
        "processes": [_described(content, record, image) for record in content.processes],
        "zombies": [
            {"pid": z.place.pid, "ppid": z.place.ppid, "name": z.name, "status": z.status}
            for z in content.zombies
        ],
        "ipc": sysv(content),
    }


def _described(content: Content, record: Process, image: str) -> dict[str, Any]:
    from livecr.image.elfcore import Core

    with Core.open(os.path.join(image, f"{record.place.pid}.core")) as core:
        return {
            **_process(record, core, image),
            "threads": _threads(content, record),
            "memory": _memory(record, core),
            "descriptors": descriptors(content.table, record, image),
            "signals": _signals(record),
            "timers": _timers(record),
        }


def _process(record: Process, core: Core, image: str) -> dict[str, Any]:
    place = record.place
    leader = at(record.threads, 0, image)
    own = at(record.credentials, leader.credentials, image)
    return {
        "pid": place.pid,
        "ppid": place.ppid,
        "name": _name(leader.name),
        "command": _command_line(record.memory.layout, core),
        "executable": record.memory.exe.path,
        "directory": record.fs.cwd.path,
        "pgid": place.pgid,
        "sid": place.sid,
        "uid": own.uids[0] if own.uids else None,
        "gid": own.gids[0] if own.gids else None,
    }


def _name(text: str) -> str:
    """A record holds a name's bytes, one a character."""
    return text.encode("latin-1", "replace").decode("utf-8", "backslashreplace")


def _command_line(layout: dict[str, int], core: Core) -> list[str] | None:
    """From the program's own memory, as ps sees it; None when that is not in the image."""
    start, end = layout.get("arg_start", 0), layout.get("arg_end", 0)
    if not 0 < end - start <= _ARGUMENTS_BYTES_MAX:
        return None
    for i in range(core.run_count):
        run = core.runs[i]
        if run.start <= start and end <= run.end:
            raw = os.pread(core.fd, end - start, run.offset + start - run.start)
            return [word.decode("utf-8", "backslashreplace") for word in raw.removesuffix(b"\0").split(b"\0")]
    return None


def _threads(content: Content, record: Process) -> list[dict[str, Any]]:
    from livecr.kernel.clock import clock_name

    waits = {waiting.tid: waiting.wait for waiting in content.waits}
    found = []
    for thread in record.threads:
        wait = waits.get(thread.tid)
        shown = None
        if wait is not None:
            shown = {
                "call": wait.name,
                "arguments": wait.arguments,
                "clock": None if wait.clock is None else clock_name(wait.clock),
                "deadline_ns": wait.deadline_ns,
                "remaining_ns": wait.remaining_ns,
                "source": wait.source,
                "uncertainty_ns": wait.uncertainty_ns,
                "disagreement_ns": wait.disagreement_ns,
            }
        found.append({"tid": thread.tid, "name": _name(thread.name), "wait": shown})
    return found


# In the order in which they are shown.
_MEMORY_KINDS = (
    *("heap", "stack", "anonymous", "private file", "shared file", "shared anonymous", "System V segment"),
    "kernel's own",
)


def _memory_kind(vma: Vma) -> str:
    if vma.kind == "kernel":
        return "kernel's own"
    if vma.kind == "shared":
        return "shared anonymous"
    if vma.kind == "sysv":
        return "System V segment"
    if vma.kind == "file":
        return "shared file" if vma.perms[3:4] == "s" else "private file"
    return {"[heap]": "heap", "[stack]": "stack"}.get(vma.name, "anonymous")


def _memory(record: Process, core: Core) -> dict[str, Any]:
    """Mapped and stored sizes by kind; stored is what the core file holds."""
    memory = record.memory
    kinds = {kind: {"mappings": 0, "mapped_bytes": 0, "stored_bytes": 0} for kind in _MEMORY_KINDS}
    at = 0
    for vma in memory.vmas:
        kind = kinds[_memory_kind(vma)]
        kind["mappings"] += 1
        kind["mapped_bytes"] += vma.end - vma.start
        # Each run of the core lies inside one mapping, and both ascend.
        while at < core.run_count and core.runs[at].start < vma.end:
            kind["stored_bytes"] += core.runs[at].end - core.runs[at].start
            at += 1
    return {
        "kinds": {kind: sizes for kind, sizes in kinds.items() if sizes["mappings"]},
        "mapped_bytes": sum(sizes["mapped_bytes"] for sizes in kinds.values()),
        "stored_bytes": sum(sizes["stored_bytes"] for sizes in kinds.values()),
        "files": [file.path for file in memory.files],
        "guard_ranges": len(memory.guards),
        "inherited_bytes": sum(
            end - start for kept in record.inherited for start, end in (run[:2] for run in kept.runs)
        ),
    }


def _signals(record: Process) -> dict[str, list[str]]:
    """By name; pending ones in the order of their queues, the process's own first."""
    queues = [record.pending, *(thread.pending for thread in record.threads)]
    return {
        "handled": [signal_name(a.signal) for a in record.actions if a.handler > _SIG_IGN],
        "ignored": [signal_name(a.signal) for a in record.actions if a.handler == _SIG_IGN],
        "pending": [signal_name(int.from_bytes(info[:4], "little")) for queue in queues for info in queue],
    }


def _timers(record: Process) -> list[dict[str, Any]]:
    """Interval timers and POSIX timers; remaining_ns 0: not set."""
    from livecr.kernel.clock import clock_name

    interval = [
        {
            "timer": _ITIMERS[timer.which] if 0 <= timer.which < len(_ITIMERS) else str(timer.which),
            "clock": None,
            "remaining_ns": timer.remaining_us * 1000,
            "interval_ns": timer.interval_us * 1000,
        }
        for timer in record.interval_timers
    ]
    return interval + [
        {
            "timer": f"POSIX timer {timer.id}",
            "clock": clock_name(timer.clock),
            "remaining_ns": timer.remaining_ns,
            "interval_ns": timer.interval_ns,
        }
        for timer in record.posix_timers
    ]


# -- for people ---------------------------------------------------------------------------------------------


def _tables(told: dict[str, Any]) -> list[Table]:
    from livecr.cli.terminal import Table

    tables = [Table(told["image"], (), _about(told))]
    if len(told["processes"]) > 1 or told["zombies"]:
        tables.append(Table("processes", (">pid", ">parent", ">threads", "command"), _family(told)))
    for process in told["processes"]:
        tables += _of_process(process)
    if told["ipc"]:
        rows = [(one["kind"], one["id"], f"{one['key']:#x}", one["what"]) for one in told["ipc"]]
        tables.append(Table("System V IPC", ("kind", ">id", ">key", "holds"), rows))
    return tables


def _of_process(process: dict[str, Any]) -> list[Table]:
    from livecr.cli.terminal import Table

    tables = [
        Table(f"process {process['pid']}", (), _about_process(process)),
        Table(
            "threads",
            (">task", "name", "waits in", ">time left", "known from", ">off by up to"),
            _waits(process),
        ),
        Table("memory", ("kind", ">mappings", ">mapped", ">stored"), _sizes(process["memory"])),
        Table(
            "descriptors",
            (">fd", "kind", "access", ">offset", "what"),
            [
                (d["fd"], d["kind"], d["access"], "" if d["offset"] is None else d["offset"], d["what"])
                for d in process["descriptors"]
            ],
        ),
        Table(
            "signals", (), [(name, ", ".join(found) or "none") for name, found in process["signals"].items()]
        ),
    ]
    if process["timers"]:
        tables.append(
            Table("timers", ("timer", "clock", ">time left", ">interval"), _timer_rows(process["timers"]))
        )
    return tables


def _family(told: dict[str, Any]) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = [
        (p["pid"], p["ppid"], len(p["threads"]), _quoted(p["command"]) if p["command"] else p["name"])
        for p in told["processes"]
    ]
    return rows + [(z["pid"], z["ppid"], "", f"{z['name']} (it has ended)") for z in told["zombies"]]


def _about(told: dict[str, Any]) -> list[tuple[str, object]]:
    from livecr.cli.terminal import size

    seconds, ns = divmod(told["frozen_at_ns"], _NS)
    try:
        frozen = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds)) + f".{ns // 1_000_000:03d} UTC"
    except (OverflowError, OSError):
        frozen = f"{seconds} s after 1970"
    return [
        ("frozen at", frozen),
        ("time model", _time_model(told)),
        ("kernel", told["kernel"]),
        ("livecr", told["livecr"]),
        ("size", size(told["size_bytes"])),
    ]


def _about_process(process: dict[str, Any]) -> list[tuple[str, object]]:
    command = process["command"]
    return [
        ("name", process["name"]),
        ("command", "not in the image" if command is None else _quoted(command)),
        ("executable", process["executable"]),
        ("directory", process["directory"]),
        ("user, group", f"{process['uid']}, {process['gid']}"),
        ("session, group", f"{process['sid']}, {process['pgid']}"),
    ]


def _time_model(told: dict[str, Any]) -> str:
    """The program's wish, and how it was told."""
    wished_by = _WISHED_BY.get(told["time_model_from"])
    return f"{told['time_model']}, {wished_by}" if wished_by else str(told["time_model"])


def _quoted(words: list[str]) -> str:
    from shlex import join

    return join(words)


def _waits(process: dict[str, Any]) -> list[tuple[object, ...]]:
    from livecr.cli.terminal import duration

    rows: list[tuple[object, ...]] = []
    for thread in process["threads"]:
        wait = thread["wait"]
        if wait is None:
            rows.append((thread["tid"], thread["name"], "no call: it ran", "", "", ""))
            continue
        off = wait["uncertainty_ns"] + wait["disagreement_ns"]
        exactness = "" if wait["remaining_ns"] is None else duration(off) if off else "exact"
        rows.append(
            (
                *(thread["tid"], thread["name"], wait["call"], duration(wait["remaining_ns"])),
                *(wait["source"], exactness),
            )
        )
    return rows


def _sizes(memory: dict[str, Any]) -> list[tuple[object, ...]]:
    from livecr.cli.terminal import size

    rows: list[tuple[object, ...]] = [
        (kind, sizes["mappings"], size(sizes["mapped_bytes"]), size(sizes["stored_bytes"]))
        for kind, sizes in memory["kinds"].items()
    ]
    mappings = sum(sizes["mappings"] for sizes in memory["kinds"].values())
    rows.append(("all", mappings, size(memory["mapped_bytes"]), size(memory["stored_bytes"])))
    return rows


def _timer_rows(timers: list[dict[str, Any]]) -> list[tuple[object, ...]]:
    from livecr.cli.terminal import duration

    return [
        (
            *(timer["timer"], timer["clock"] or ""),
            duration(timer["remaining_ns"]) if timer["remaining_ns"] else "not set",
            duration(timer["interval_ns"]) if timer["interval_ns"] else "",
        )
        for timer in timers
    ]
