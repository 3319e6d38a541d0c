"""Shims hold what they were filled with, and lead to where the program's own call would have returned."""

from __future__ import annotations

import pytest
from livecr.target.shim_forms import COMPAT, MAGIC_BYTES, NATIVE, Form
from livecr.target.tracee import USER32_CS, Registers

SLOT = 0xF7F19FB0


def own(form: Form) -> Registers:
    values = {name: 0x11111111 * (i + 1) for i, name in enumerate(form.arguments)}
    return Registers(rip=0xF7F185E9, cs=USER32_CS, **values)


@pytest.mark.parametrize("form", [NATIVE, COMPAT])
def test_what_is_filled_in_is_read_back(form: Form) -> None:
    registers = own(form)
    words = form.words(SLOT, form.fill(SLOT, registers, 256, b"left"))
    assert words == {name: getattr(registers, name) for name in form.arguments} | {
        "back": registers.rip,
        "number": 256,
        "done": 0,
    }


def test_what_was_done_before_and_the_argument_of_io_uring_are_in_it() -> None:
    """struct io_uring_getevents_arg: sigmask, its size, and ts, which is the shim's own timespec."""
    shim = NATIVE.fill(SLOT, own(NATIVE), 426, b"left", done=7, sigmask=(0x1234, 8))
    assert (NATIVE.words(SLOT, shim)["number"], NATIVE.words(SLOT, shim)["done"]) == (426, 7)
    words = [int.from_bytes(shim[NATIVE.arg_at + at :][:8], "little") for at in (0, 8, 16)]
    assert words == [0x1234, 8, SLOT + NATIVE.timespec_at]
    assert shim[NATIVE.timespec_at :].startswith(b"left")


@pytest.mark.parametrize(("form", "call"), [(NATIVE, b"\x0f\x05"), (COMPAT, b"\xcd\x80")])
def test_the_call_is_right_behind_the_magic(form: Form, call: bytes) -> None:
    code = form.code()
    assert code[MAGIC_BYTES : MAGIC_BYTES + 2] == call
    assert len(code) % 16 == 0


def test_operands_of_a_32_bit_shim_are_where_its_instructions_have_them() -> None:
    """mov $…, %ebx … %ebp and jmp, each one byte and its operand."""
    code = COMPAT.code()
    opcodes = [code[at - 1] for at in (*COMPAT.words_at, COMPAT.back_at)]
    assert opcodes == [0xBB, 0xB9, 0xBA, 0xBE, 0xBF, 0xBD, 0xE9]
