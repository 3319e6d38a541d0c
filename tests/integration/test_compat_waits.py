"""Waits of 32-bit programs: each ends when it would have ended, with the answer that it would have had.

As in test_waits.py and test_wait_again.py, with the same programs built for i386: with struct timespec of 32
bits and of 64, by the vDSO's __kernel_vsyscall (wait_call) and by `int $0x80` (wait_again). The program would
have noticed EINTR, another result, a changed out parameter or register, or a wait of another length.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from livecr.waits.catalog32 import I386
from tests.integration.conftest import until
from tests.integration.waiting import (
    FATES,
    LEFT_RUNNING,
    PRIORITY,
    RESTORED,
    UNDISTURBED,
    answer,
    in_time,
    meet_all,
    meet_and_compare,
    milliseconds,
)

NUMBERS = {row.name: row.number for row in I386.calls.values()}
M32 = ("-m32",)
TIME64 = ("-m32", "-D_TIME_BITS=64", "-D_FILE_OFFSET_BITS=64")

#: How wait_call is built; its kinds, and the call that each is blocked in.
GROUPS: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "sleeps": (
        M32,
        {
            "nanosleep": "nanosleep",
            "nanosleep-same": "nanosleep",
            "relative-monotonic": "clock_nanosleep",
            "relative-tai": "clock_nanosleep",
            "relative-null": "clock_nanosleep",
        },
    ),
    "points in time": (
        M32,
        {
            "absolute-realtime": "clock_nanosleep",
            "absolute-monotonic": "clock_nanosleep",
            "absolute-boottime": "clock_nanosleep",
        },
    ),
    "futexes": (
        M32,
        {
            "futex": "futex",
            "futex-woken": "futex",
            "bitset-monotonic": "futex",
            "join": "futex",
        },
    ),
    "polls": (
        M32,
        {
            "poll-pipe": "poll",
            "poll-woken": "poll",
            "ppoll": "ppoll",
            "select": "_newselect",
            "old-select": "select",
            "old-select-forever": "select",
            "pselect": "pselect6",
        },
    ),
    "64-bit time": (
        TIME64,
        {
            "relative-boottime": "clock_nanosleep_time64",
            "absolute-monotonic": "clock_nanosleep_time64",
            "futex": "futex_time64",
            "bitset-realtime": "futex_time64",
            "ppoll-woken": "ppoll_time64",
            "pselect": "pselect6_time64",
        },
    ),
    "without a timeout": (
        M32,
        {
            "read": "read",
            "write": "write",
            "splice": "splice",
            "open-fifo": "openat",
            "lock-pi": "futex",
            "pause": "pause",
            "sigsuspend": "rt_sigsuspend",
            "old-sigsuspend": "sigsuspend",
        },
    ),
}


@pytest.mark.parametrize("group", GROUPS)
def test_a_wait_ends_as_if_nothing_had_happened(
    group: str, program: Callable[..., Path], target: Callable[..., Any], tmp_path: Path, livecr: Any
) -> None:
    """It would have noticed another result, another ``rmtp``, or a wait of another length."""
    flags, called = GROUPS[group]

    def run(kinds: list[str]) -> dict[tuple[str, str], int]:
        calls = {kind: NUMBERS[called[kind]] for kind in kinds}
        return meet_and_compare(program("wait_call", *flags), calls, target, tmp_path, livecr)

    in_time(called, run)


AGAIN = {
    "epoll_wait": "epoll_wait",
    "epoll_pwait": "epoll_pwait",
    "epoll_pwait2": "epoll_pwait2",
    "rt_sigtimedwait": "rt_sigtimedwait",
    "semtimedop": "ipc(semtimedop)",
}
SAME = ("result", "registers_kept", "timeout_kept", "handled")
EINTR = 4


def told_by(one: Any) -> Any:
    """What wait_again says when its call has returned."""
    assert one.wait() == 0, one.output()
    until(lambda: one.output().endswith("}\n"), "it has printed all")
    return json.loads(one.output().splitlines()[1])


def test_a_call_that_a_freeze_ends_goes_on_with_the_time_left(
    program: Callable[..., Path], target: Callable[..., Any], tmp_path: Path, livecr: Any
) -> None:
    """Undisturbed, left running and restored: the same answer, registers and length."""

    def run(kinds: list[str]) -> dict[tuple[str, str], int]:
        wait_ms = milliseconds(len(kinds))
        twins = {
            (kind, fate): target([*PRIORITY, program("wait_again", *M32), kind, wait_ms])
            for kind in kinds
            for fate in FATES
        }
        for (kind, _), one in twins.items():
            one.until_blocked(NUMBERS[AGAIN[kind]])
        meet_all([(fate, one, tmp_path / f"{one.pid}.livecr") for (_, fate), one in twins.items()], livecr)
        told = {which: told_by(one) for which, one in twins.items()}
        for (kind, fate), one in told.items():
            undisturbed = told[kind, UNDISTURBED]
            assert undisturbed["registers_kept"] and undisturbed["handled"] == 0
            assert [one[name] for name in SAME] == [undisturbed[name] for name in SAME], (kind, fate)
        return {which: one["took_ns"] - wait_ms * 1_000_000 for which, one in told.items()}

    in_time(AGAIN, run)


@pytest.mark.parametrize("fate", [LEFT_RUNNING, RESTORED])
@pytest.mark.parametrize("kind", ["epoll_wait", "semtimedop"])
def test_a_signal_ends_a_call_that_was_made_again(
    kind: str,
    fate: str,
    program: Callable[..., Path],
    target: Callable[..., Any],
    tmp_path: Path,
    livecr: Any,
) -> None:
    """EINTR after its handler ran, once, and all registers as they were; two checkpoints in one wait."""
    one = target([program("wait_again", *M32), kind, 20_000])
    one.until_blocked(NUMBERS[AGAIN[kind]])
    livecr("checkpoint", one.pid, "-o", tmp_path / "before.livecr", "--leave-running")
    one.until_blocked()
    meet_all([(fate, one, tmp_path / "image.livecr")], livecr)
    one.until_blocked()
    one.signal(signal.SIGUSR1)
    told = told_by(one)
    assert {name: told[name] for name in SAME} == dict(zip(SAME, (-EINTR, 1, 1, 1), strict=True))


SIGNAL_MS = 25_000
NS_PER_MS = 1_000_000
#: kind -> how the handler is installed, how wait_call is built, whether rmtp and the like tell what is left.
SIGNALLED = {
    "nanosleep": ("restart", M32, True),
    "relative-boottime": ("handler", M32, True),
    "relative-monotonic": ("handler", TIME64, True),
    "select": ("restart", M32, True),
    "futex": ("handler", TIME64, False),
    "poll": ("restart", M32, False),
}


def test_a_signal_after_the_checkpoint(
    program: Callable[..., Path], target: Callable[..., Any], tmp_path: Path, livecr: Any
) -> None:
    """EINTR; its handler runs once, in a frame that it returns from, and rmtp tells what is really left."""

    def run(kinds: list[str]) -> dict[tuple[str, str], int]:
        off_ns = {}
        twins = {
            (kind, fate): target(
                [*PRIORITY, program("wait_call", *SIGNALLED[kind][1]), kind, SIGNAL_MS, SIGNALLED[kind][0]]
            )
            for kind in kinds
            for fate in FATES
        }
        for one in twins.values():
            one.until_blocked()
        meet_all([(fate, one, tmp_path / f"{one.pid}.livecr") for (_, fate), one in twins.items()], livecr)
        for (kind, fate), one in twins.items():
            one.until_blocked()
            one.signal(signal.SIGUSR1)
            told = answer(one)
            assert (told["result"], told["errno"], told["handled"]) == (-1, EINTR, 1), (kind, fate, told)
            added_up = told["left_ns"] + told["handled_ns"] - SIGNAL_MS * NS_PER_MS
            off_ns[kind, fate] = abs(added_up) if SIGNALLED[kind][2] else 0
        return off_ns

    in_time(SIGNALLED, run)


AT_SYSINFO = 32
INT_80 = b"\xcd\x80"
#: What the kernel patches into the vDSO's __kernel_vsyscall: the one on Intel's CPUs, the other on AMD's, or
#: nothing, and then the `int $0x80` behind it is what enters (arch/x86/entry/vdso/vdso32/system_call.S).
FAST = {"sysenter": b"\x0f\x34", "syscall": b"\x0f\x05"}
VSYSCALL_BYTES = 32


def test_every_way_into_the_kernel_comes_back_behind_the_same_instruction(
    program: Callable[..., Path], target: Callable[..., Any]
) -> None:
    """So a call is made again in one way, whichever instruction of both this CPU has made it by."""
    one = target([program("wait_call", *M32), "nanosleep", 60_000])
    one.until_blocked(NUMBERS["nanosleep"])
    auxv = memoryview(Path(f"/proc/{one.pid}/auxv").read_bytes()).cast("I")
    entry = dict(zip(auxv[::2], auxv[1::2], strict=True))[AT_SYSINFO]
    with Path(f"/proc/{one.pid}/mem").open("rb") as memory:
        memory.seek(entry)
        code = memory.read(VSYSCALL_BYTES)
    landing = code.index(INT_80) + len(INT_80)
    print("entered by", next((name for name, way in FAST.items() if way in code[:landing]), "int $0x80"))
    blocked_at = int(Path(f"/proc/{one.pid}/syscall").read_text().split()[-1], 16)
    assert blocked_at == entry + landing
