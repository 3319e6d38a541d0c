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
    }


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
