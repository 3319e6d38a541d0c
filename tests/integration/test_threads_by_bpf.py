"""What BPF reads of each task is what the task itself is told by prctl(2), sigaltstack(2) and the like."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Alternate stacks of the main thread (faulthandler) and of another, a timer slack, securebits of one thread.
PROGRAM = """
import ctypes, faulthandler, threading, time
faulthandler.enable()
libc = ctypes.CDLL(None, use_errno=True)
standing = threading.Barrier(4)
def other(number):
    if number == 0:
        room = ctypes.create_string_buffer(1 << 16)
        told = (ctypes.c_uint64 * 3)(ctypes.addressof(room), 1 << 31, 1 << 16)
        assert libc.sigaltstack(told, None) == 0
    if number == 1:
        assert libc.prctl(29, 123456, 0, 0, 0) == 0
        assert libc.prctl(28, 1 << 4, 0, 0, 0) == 0
        assert libc.prctl(1, 10, 0, 0, 0) == 0
        assert libc.prctl(33, 1, 1, 0, 0) == 0
        assert libc.prctl(15, b"one \\xff alone", 0, 0, 0) == 0
    standing.wait()
    time.sleep(600)
for number in range(3):
    threading.Thread(target=other, args=(number,), daemon=True).start()
standing.wait()
print("ready", flush=True)
time.sleep(600)
"""


def test_both_tell_the_same(target: Callable[..., Any], livecr: Any, tmp_path: Path) -> None:
    """Of threads with an alternate stack, with a timer slack, securebits and settings, and with neither."""
    one = target([sys.executable, "-c", PROGRAM])
    one.until_printed("ready")
    told = []
    for name, without in (("with", ""), ("without", "bpf")):
        image = tmp_path / name
        livecr("checkpoint", one.pid, "-o", image, "--leave-running", LIVECR_WITHOUT=without)
        (record,) = json.loads((image / "manifest.json").read_text())["content"]["processes"]
        told.append((record["threads"], record["credentials"]))
    assert told[0] == told[1]
    threads, credentials = told[0]
    assert len(threads) == 4
    assert [t["timer_slack_ns"] for t in threads].count(123456) == 1
    assert sorted(t["settings"]["parent_death_signal"] for t in threads) == [0, 0, 0, 10]
    assert len({t["settings"]["mce_kill"] for t in threads}) == 2
    assert [t["name"] for t in threads].count("one \xff alone") == 1
    assert sum(t["alternate_stack"]["size_bytes"] > 0 for t in threads) == 2
    assert sorted(c["securebits"] for c in credentials) == [0, 1 << 4]
