"""For which machine a program is, by its ELF header."""

from __future__ import annotations

import os

import pytest
from livecr.kernel import machine

ELF = b"\x7fELF"


def header(elf_class: int, e_machine: int) -> bytes:
    return ELF + bytes([elf_class, 1, 1]) + bytes(9) + b"\x02\0" + e_machine.to_bytes(2, "little")


@pytest.mark.parametrize(
    ("elf_class", "e_machine", "expected"),
    [
        (2, 62, machine.X86_64),
        (1, 3, machine.I386),
        (1, 62, machine.X32),
        (2, 183, machine.OTHER),  # AArch64
    ],
)
def test_class_and_machine_tell(elf_class: int, e_machine: int, expected: str) -> None:
    assert machine.of_header(header(elf_class, e_machine)) == expected


@pytest.mark.parametrize("content", [b"", ELF, b"#!/bin/sh\n" + bytes(20), header(2, 62)[:19]])
def test_what_is_no_elf_file_is_none_of_them(content: bytes) -> None:
    assert machine.of_header(content) == machine.OTHER


def test_this_process() -> None:
    assert machine.of_process(os.getpid()) == machine.X86_64
