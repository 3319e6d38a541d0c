"""What the program's own registers are, while a shim is on its way to the call that it lends a time for."""

from __future__ import annotations

import pytest
from livecr.target.shim_code import SLOT_WORDS, Code
from livecr.target.tracee import Registers

EINTR, EBADF, ERESTARTNOHAND = -4, -9, -514
SETSOCKOPT, CALL, BACK = 54, 47, 0x401002


@pytest.mark.parametrize("compat", [False, True], ids=["x86-64", "i386"])
@pytest.mark.parametrize(
    ("label", "rax", "orig_rax", "seen"),
    [
        ("lend_set", ERESTARTNOHAND, SETSOCKOPT, (EINTR, CALL)),  # livecr has just let it go
        ("lend_set", EINTR, SETSOCKOPT, (EINTR, CALL)),
        ("lend_set", EINTR, -1, (EINTR, -1)),  # a handler has run
        ("lend_set", EBADF, -1, (EBADF, -1)),
        ("lend_set", 0, -1, (EINTR, CALL)),
        ("lend_ready", 0, -1, (EINTR, CALL)),
        ("lend_back", EINTR, CALL, (EINTR, CALL)),
        ("lend_back", EINTR, -1, (EINTR, -1)),
        ("lend_back", 100, CALL, (100, CALL)),  # perhaps a freeze has cut it short
        ("lend_back", 100, -1, (100, -1)),
        ("lend_kept", SETSOCKOPT, -1, (7, -1)),
        ("lend_over", 7, -1, (7, -1)),
    ],
)
def test_where_it_stands_tells_what_it_has(
    label: str, rax: int, orig_rax: int, seen: tuple[int, int], compat: bool
) -> None:
    """About to wait, or woken by a freeze alone, it is in its call; else it has a result."""
    code = Code(compat)
    site = code.sites[code.lend]
    at = {"lend_set": site.back}.get(label) or code.place(label)
    slot = dict.fromkeys(SLOT_WORDS, 0) | {"number": CALL, "back": BACK, "result": 7, "shim": code.lend}
    unsigned = {"rax": rax & 0xFFFFFFFFFFFFFFFF, "orig_rax": orig_rax & 0xFFFFFFFFFFFFFFFF}
    registers = Registers.unpack(bytes(27 * 8)).copy(**unsigned, cs=0x23 if compat else 0x33)
    own = registers.copy(**code.leaving(at, site, registers, slot))
    assert (own.rip, own.result(), own.call()) == (BACK, *seen)
