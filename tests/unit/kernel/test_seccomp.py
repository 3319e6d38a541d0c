"""Seccomp filters run in livecr answer as the kernel would have: small ones, call by call."""

from __future__ import annotations

import struct

from livecr.kernel.seccomp import ALLOW, ARCH_I386, ERRNO, USER_NOTIF, Filters

KILL_PROCESS, KILL_THREAD, TRAP = 0x80000000, 0, 0x30000


def program(*instructions: tuple[int, int, int, int]) -> bytes:
    """code, jt, jf, k of each: struct sock_filter."""
    return b"".join(struct.pack("<HBBI", *one) for one in instructions)


def returns(value: int) -> tuple[int, int, int, int]:
    """BPF_RET | BPF_K."""
    return (0x06, 0, 0, value)


def on_number(number: int, then: int, otherwise: int = ALLOW) -> bytes:
    """By the number of the call."""
    return program((0x20, 0, 0, 0), (0x15, 0, 1, number), returns(then), returns(otherwise))


def test_by_number() -> None:
    """An errno's value is no part of the action; an error does no harm, but is not allowed either."""
    filters = Filters([on_number(39, ERRNO | 13)])
    assert filters.action(39) == ERRNO
    assert not filters.allows(39)
    assert not filters.harms(39)
    assert filters.allows(40)


def test_the_strictest_counts() -> None:
    """KILL_PROCESS is stricter than KILL_THREAD, although its number is higher (kernel/seccomp.c)."""
    filters = Filters([on_number(1, KILL_THREAD), on_number(1, KILL_PROCESS), on_number(1, TRAP)])
    assert filters.action(1) == KILL_PROCESS
    assert Filters([on_number(1, TRAP), on_number(1, ERRNO)]).action(1) == TRAP
    assert filters.harms(1)


def test_by_arch_and_arguments() -> None:
    """The upper half of an argument is a word of its own."""
    by_arch = program((0x20, 0, 0, 4), (0x15, 0, 1, ARCH_I386), returns(KILL_PROCESS), returns(ALLOW))
    assert Filters([by_arch]).harms(1, arch=ARCH_I386)
    assert Filters([by_arch]).allows(1)
    by_upper_half = program((0x20, 0, 0, 16 + 8 + 4), (0x25, 0, 1, 0), returns(TRAP), returns(ALLOW))
    assert Filters([by_upper_half]).allows(1, (0, 0xFFFFFFFF))
    assert Filters([by_upper_half]).harms(1, (0, 1 << 32))
    assert Filters([by_upper_half]).harms(1, (0, -1))


def test_arithmetic_and_memory() -> None:
    """A = nr; M[3] = A; X = M[3]; A = (A << 4 | X) - 1 & 0xff; is it 0x10 for nr 1?"""
    computing = program(
        (0x20, 0, 0, 0),
        (0x02, 0, 0, 3),
        (0x61, 0, 0, 3),
        (0x64, 0, 0, 4),
        (0x4C, 0, 0, 0),
        (0x14, 0, 0, 1),
        (0x54, 0, 0, 0xFF),
        (0x15, 1, 0, 0x10),
        returns(TRAP),
        returns(ALLOW),
    )
    assert Filters([computing]).allows(1)
    assert Filters([computing]).harms(2)


def test_a_supervisor_is_seen() -> None:
    """Also when only some call would be answered so."""
    assert Filters([on_number(1, USER_NOTIF)]).asks()
    assert not Filters([on_number(1, ERRNO)]).asks()
