"""The build-id that the linker has written is found, in files of both ELF classes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from livecr.kernel import build_id

WANTED = "00112233445566778899aabbccddeeff00112233"


@pytest.mark.parametrize("machine", ["-m64", "-m32"])
def test_it_is_what_the_linker_was_told(machine: str, tmp_path: Path) -> None:
    source, binary = tmp_path / "nothing.c", tmp_path / "nothing"
    source.write_text("void _start(void) { for (;;) ; }\n")
    linked = ["-nostdlib", "-static", f"-Wl,--build-id=0x{WANTED}"]
    subprocess.run(["gcc", machine, *linked, "-o", binary, source], check=True)
    assert build_id.of_file(str(binary)) == WANTED


def test_other_files_have_none(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_bytes(b"\x7fELF" + bytes(100))
    assert build_id.of_file(str(text)) == ""
