"""What the kernel does with a restart code is known to the letter: livecr hands registers back by it."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st
from livecr.target.tracee import REGISTERS, Registers
from livecr.waits import restart

READ, NANOSLEEP = 0, 35
SYSCALL_AT = 0x401000
AFTER_SYSCALL = SYSCALL_AT + 2

words = st.integers(0, 2**64 - 1)
any_registers = st.fixed_dictionaries(dict.fromkeys(REGISTERS, words)).map(lambda r: Registers(**r))


@pytest.mark.parametrize(
    "code",
    [restart.ERESTARTSYS, restart.ERESTARTNOINTR, restart.ERESTARTNOHAND, restart.ERESTART_RESTARTBLOCK],
)
def test_a_code_counts_only_inside_a_call(code: int) -> None:
    inside = Registers(orig_rax=READ, rax=code)
    outside = Registers(orig_rax=-1, rax=code)
    assert restart.interrupted_call(inside) == code
    assert restart.interrupted_call(outside) is None


@pytest.mark.parametrize("result", [0, 5, -errno.EINTR, -errno.EAGAIN, -515, -511, -517])
def test_a_result_is_no_restart_code(result: int) -> None:
    assert restart.interrupted_call(Registers(orig_rax=READ, rax=result)) is None


def test_the_call_is_made_again() -> None:
    stopped = Registers(orig_rax=READ, rax=restart.ERESTARTSYS, rip=AFTER_SYSCALL, rdi=3, rsi=0x7000, rdx=9)
    resumed = restart.as_kernel_resumes(stopped)
    assert (resumed.rip, resumed.rax, resumed.call()) == (SYSCALL_AT, READ, -1)
    assert resumed.arguments() == stopped.arguments()


def test_the_restart_block_is_gone_on_with() -> None:
    stopped = Registers(orig_rax=NANOSLEEP, rax=restart.ERESTART_RESTARTBLOCK, rip=AFTER_SYSCALL)
    resumed = restart.as_kernel_resumes(stopped)
    assert (resumed.rip, resumed.rax) == (SYSCALL_AT, restart.NR_RESTART_SYSCALL)


@given(any_registers)
def test_nothing_is_restarted_twice(registers: Registers) -> None:
    """Whatever a task stands in, resuming it as the kernel does leaves nothing for the kernel to restart."""
    resumed = restart.as_kernel_resumes(registers)
    assert restart.as_kernel_resumes(resumed) == resumed


def test_how_each_code_is_entered_again() -> None:
    assert {code: restart.how(code) for code in restart.CODES} == {
        restart.ERESTARTSYS: "redo",
        restart.ERESTARTNOINTR: "redo",
        restart.ERESTARTNOHAND: "redo",
        restart.ERESTART_RESTARTBLOCK: "rearm",
    }
    assert restart.how(restart.EINTR) == "eintr"
