"""`livecr waits`: what each task of a running program is blocked in, and for how much longer."""

from __future__ import annotations

from livecr.cli import arguments

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from livecr.cli.terminal import Table
    from livecr.waits.live import LiveWait

__all__ = ["run"]

USAGE = """usage: livecr waits PID [--json]

Tell what each task of the program with process number PID is blocked in: the system call, on what, how much
longer, how that is known (restart-block and sleeper are exact), and by how much it may be off. The program is
not stopped and notices nothing.

  --json   for programs; times in ns, deadlines on the program's own clock"""


def run(words: list[str]) -> int:
    """The command."""
    given = arguments.parse(words, USAGE, operand="PID", options=("json",))
    if given is None:
        return 0
    pid = arguments.pid(given.operand)
    from livecr.cli.terminal import print_json, print_tables
    from livecr.image.record import write_only

    write_only()
    from livecr.waits.live import live_waits

    found = live_waits(pid)
    if "json" in given:
        print_json({"pid": pid, "tasks": [as_json(wait) for wait in found]})
    else:
        print_tables([_table(pid, found)])
    return 0


def as_json(wait: LiveWait) -> dict[str, Any]:
    """One task; clock, deadline_ns and remaining_ns are null without a timeout."""
    from livecr.kernel.clock import clock_name

    return {
        "tid": wait.tid,
        "name": wait.comm,
        "call": wait.call,
        "on": wait.on,
        "clock": None if wait.clock is None else clock_name(wait.clock),
        "deadline_ns": wait.deadline_ns,
        "remaining_ns": wait.remaining_ns,
        "source": wait.source,
        "uncertainty_ns": wait.uncertainty_ns,
    }


def _table(pid: int, found: list[LiveWait]) -> Table:
    from livecr.cli.terminal import Table, duration

    rows = [
        (
            *(wait.tid, wait.comm, wait.call, wait.on, duration(wait.remaining_ns), wait.source),
            "" if wait.remaining_ns is None else uncertainty(wait.uncertainty_ns),
        )
        for wait in found
    ]
    headings = (">task", "name", "call", "on", ">time left", "known from", ">off by up to")
    return Table(f"process {pid}", headings, rows)


def uncertainty(ns: int) -> str:
    """How much a remaining time may be off."""
    from livecr.cli.terminal import duration

    return duration(ns) if ns else "exact"
