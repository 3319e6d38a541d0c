"""A program that holds one of everything, and checks all of it when it is signalled after its checkpoint."""

from __future__ import annotations

import difflib
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.conftest import frame


def layout(pid: int) -> dict[str, bytes | str]:
    """What ps and its like see of a process."""
    read = {name: Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ", "auxv", "comm")}
    links = {name: str(Path(f"/proc/{pid}/{name}").readlink()) for name in ("exe", "cwd")}
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return read | links | {"stat": " ".join([*fields[23:26], *fields[42:49]])}


@pytest.mark.parametrize("fate", ["left-running", "restored"])
def test_everything_is_as_it_was(
    fate: str,
    program: Callable[[str], Path],
    target: Callable[..., Any],
    image: Path,
    livecr: Any,
    tmp_path: Path,
) -> None:
    """The program would notice a changed byte, register, offset, signal, timer or setting."""
    mebibytes = 1024 if fate == "restored" else 64
    one = target([program("everything"), str(mebibytes), tmp_path])
    one.until_printed("ready")
    before, outside = frame(one.pid), layout(one.pid)
    if fate == "restored":
        livecr("checkpoint", one.pid, "-o", image)
        one.killed()
        one.restore(image)
    else:
        livecr("checkpoint", one.pid, "-o", image, "--leave-running")
    assert not list(difflib.unified_diff(before, frame(one.pid), lineterm=""))
    assert layout(one.pid) == outside
    one.signal(signal.SIGUSR1)
    assert (one.wait(), one.output()) == (0, "ready\nok\n")
