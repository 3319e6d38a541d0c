"""Where a program's wish for a time model is found, and which of several counts."""

from __future__ import annotations

import pytest
from livecr.errors import UsageError
from livecr.kernel.procfs import Mapping
from livecr.waits.wishes import advise, find

PLAIN = Mapping(0x1000, 0x2000, "rw-p", 0, "00:00", 0, "[anon:heap of mine]")
NAMED = Mapping(0x2000, 0x3000, "rw-p", 0, "00:00", 0, "[anon:livecr:time=absolute]")
MEMFD = Mapping(0x3000, 0x4000, "r--p", 0, "00:01", 7, "/memfd:livecr:time=absolute (deleted)")
FILE = Mapping(0x4000, 0x5000, "r--p", 0, "08:01", 7, "/tmp/livecr:time=absolute")
OPEN = "/memfd:livecr:time=absolute (deleted)"
ENVIRON = b"HOME=/root\0LIVECR_TIME_MODEL=relative\0"


@pytest.mark.parametrize(
    ("environ", "mappings", "descriptors", "expected"),
    [
        (b"", [PLAIN], ["/dev/null"], ("relative", "")),
        (b"", [PLAIN, NAMED], [], ("absolute", "mapping")),
        (b"", [MEMFD], [OPEN], ("absolute", "mapping")),
        (b"", [PLAIN], ["/dev/null", OPEN], ("absolute", "memfd")),
        (ENVIRON, [NAMED], [OPEN], ("relative", "environment")),
        (b"LIVECR_TIME_MODEL=sideways\0", [NAMED], [], ("absolute", "mapping")),
        (b"", [FILE], ["/tmp/memfd:livecr:time=absolute", "/memfd:livecr:time=sideways"], ("relative", "")),
    ],
)
def test_the_wish_that_counts(
    environ: bytes, mappings: list[Mapping], descriptors: list[str], expected: tuple[str, str]
) -> None:
    assert find(environ, mappings, descriptors) == expected


def test_there_is_no_third_model() -> None:
    with pytest.raises(UsageError, match="sideways"):
        advise("sideways")
