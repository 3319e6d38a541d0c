"""The table of 32-bit calls: as the headers number them, and whole."""

from __future__ import annotations

import re
import subprocess

import pytest
from livecr.waits import abi, catalog
from livecr.waits.catalog import CATALOG, LEFT_HERE, Call
from livecr.waits.catalog32 import I386, NR_IPC, NR_SOCKETCALL

ROWS = sorted(I386.calls.values(), key=lambda row: row.key)
#: Newer than the headers of Debian 12 (arch/x86/entry/syscalls/syscall_32.tbl).
NEWER = {"futex_wait": 455}


@pytest.fixture(scope="module")
def numbers() -> dict[str, int]:
    """Name -> number, as <asm/unistd_32.h> has them."""
    source = "#include <asm/unistd_32.h>\n"
    told = subprocess.run(
        ["gcc", "-E", "-dM", "-xc", "-"], input=source, capture_output=True, text=True, check=True
    ).stdout
    return NEWER | {name: int(n) for name, n in re.findall(r"#define __NR_(\w+) (\d+)\n", told)}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_number_and_name_agree(row: Call, numbers: dict[str, int]) -> None:
    outer = row.name.partition("(")[0]
    assert numbers[outer] == row.number
    assert bool(row.part) == (row.number in (NR_IPC, NR_SOCKETCALL))


def test_every_call_of_the_64_bit_table_has_its_twin() -> None:
    """But for those that i386 never had under that name, and makes by others."""
    by_others = {"accept", "semop", "semtimedop"}
    names = {row.name for row in ROWS}
    assert {row.name for row in CATALOG.values()} - names == by_others
    assert {"socketcall(accept)", "ipc(semop)", "ipc(semtimedop)"} <= names


def test_twins_leave_the_same_restart_codes() -> None:
    there = {row.name: row for row in CATALOG.values()}
    for row in ROWS:
        twin = there.get(row.name.removesuffix("_time64"))
        if row.number == 82:  # of the same name, but that of its arguments' struct
            twin = None
        if twin is not None:
            assert (row.codes, row.encoding, row.socket_option) == (
                twin.codes,
                twin.encoding,
                twin.socket_option,
            ), row.name


def test_the_width_of_a_timeout_is_in_its_name() -> None:
    for row in ROWS:
        if row.timeout is not None and row.encoding != catalog.MILLISECONDS:
            new = row.name.endswith("_time64") or row.number >= 424  # those were born with 64 bits
            assert (row.timespec is catalog.TIME64) == new, row.name


@pytest.mark.parametrize("key", I386.reentered)
def test_what_is_made_again_differs_in_its_timeout(key: int) -> None:
    number, changed = I386.reentered[key]
    row = I386.calls[key]
    (at,) = [index for index, value in changed.items() if value == LEFT_HERE]
    made = row if number == row.number else I386.calls[number]
    assert made.timeout == at


def test_demultiplexers_are_told_by_their_first_argument() -> None:
    semtimedop = I386.find(NR_IPC, [4, 7, 1, 0, 0x1000, 0x2000])
    assert semtimedop is not None and semtimedop.name == "ipc(semtimedop)"
    versioned = I386.find(NR_IPC, [1 << 16 | 12, 7, 1, 0, 0x1000, 0])  # above is a version
    assert versioned is not None and versioned.name == "ipc(msgrcv)"
    assert I386.find(NR_SOCKETCALL, [1, 0x1000, 0, 0, 0, 0]) is None  # socket(2) does not block


def test_names() -> None:
    assert abi.of("i386") is I386
    assert abi.of("x86-64") is abi.X86_64
    assert I386.call_name(162) == "nanosleep"
    assert I386.call_name(9999) == "32-bit system call 9999"
