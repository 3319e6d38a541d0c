"""The catalog is a table made by hand: its rows must agree with other tables of the same facts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from livecr.kernel import clock
from livecr.waits import catalog, restart
from livecr.waits.catalog import CATALOG, Call
from ptrace.syscall.names import SYSCALL_NAMES
from tests.integration.every_wait import ELSEWHERE
from tests.integration.every_wait import ROWS as TESTED

ROWS = sorted(CATALOG.values(), key=lambda row: row.number)
HEADER = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
TIMED = (
    *(catalog.RELATIVE, catalog.ABSOLUTE, catalog.ABS_IF_FLAG, catalog.FUTEX_OP),
    *(catalog.MILLISECONDS, catalog.LEFT, catalog.LEFT_TIMEVAL, catalog.GETEVENTS_ARG),
)


def row_id(row: Call) -> str:
    return row.name


def test_numbers_agree_with_python_ptrace() -> None:
    known = {row.number: row.name for row in ROWS if row.number in SYSCALL_NAMES}
    assert known == {number: SYSCALL_NAMES[number] for number in known}
    assert len(known) > len(ROWS) // 2


def test_numbers_agree_with_the_kernel_header() -> None:
    if not HEADER.exists():
        pytest.skip("no kernel headers installed")
    numbers = dict(re.findall(r"#define __NR_(\w+) (\d+)", HEADER.read_text()))
    wrong = {row.name: row.number for row in ROWS if int(numbers.get(row.name, row.number)) != row.number}
    assert wrong == {}


@pytest.mark.parametrize("row", ROWS, ids=row_id)
def test_a_row_is_whole(row: Call) -> None:
    assert row.codes
    assert all(code in restart.CODES or code == restart.EINTR for code in row.codes)
    assert len(row.arguments) <= 6
    assert (row.timeout is not None) == (row.encoding in TIMED)
    assert row.clock in clock.CLOCKS
    if row.socket_option:
        assert row.arguments[0].endswith("fd") or row.arguments[0].startswith("fd")


def test_a_restart_block_is_what_a_rearmed_call_leaves() -> None:
    """Every call that leaves one has a restart function that goes on with it, and the other way round."""
    by_function = {number for _, numbers in catalog.RESTART_FUNCTIONS.values() for number in numbers}
    assert by_function == {row.number for row in ROWS if row.how == "rearm"}


def test_an_unknown_call_has_its_name() -> None:
    assert catalog.call_name(39) == "getpid"
    assert catalog.call_name(9999) == "system call 9999"


def test_the_clock_argument_is_a_signed_int() -> None:
    """clock_getcpuclockid(3) gives negative ids, and registers hold them unsigned, upper half undefined."""
    sleep = CATALOG[230]
    assert sleep.clock_of([0xDEAD_FFFF_FFFA, 0, 0, 0, 0, 0]) == -6
    assert sleep.clock_of([clock.TAI, 0, 0, 0, 0, 0]) == clock.TAI


def test_what_is_entered_again_is_known() -> None:
    """Calls and arguments are named by numbers in several tables."""
    for number, (again, changed) in catalog.REENTERED.items():
        assert again in CATALOG
        assert set(changed) < set(range(6))
        assert CATALOG[number].timeout in changed
    for number, differences in catalog.DONE.items():
        assert number in catalog.REENTERED
        assert max(differences) < len(CATALOG[number].arguments)


def test_every_row_has_a_test_or_a_reason() -> None:
    """tests/integration/every_wait.py names for each call a program that is blocked in it."""
    tested = {kind.call for kind in TESTED}
    assert tested | set(ELSEWHERE) == {row.name for row in ROWS}
    assert not tested & set(ELSEWHERE)
