"""A program's own wish for a time model: whether the time that it spends in an image is to count.

It is told by the environment that the program was started with, by the name of an anonymous mapping
(PR_SET_VMA_ANON_NAME, shown in maps), or by the name of a memfd, open or mapped, which every kernel shows.
Found by the checkpoint, made by livecr.advise; `livecr restore --time-model` wins over all of them.
"""

from __future__ import annotations

import os

from livecr.errors import UsageError
from livecr.kernel import procfs
from livecr.waits.clocks import MODELS, RELATIVE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["ENVIRONMENT", "NAME", "ORIGINS", "advise", "find", "wished"]

ENVIRONMENT = "LIVECR_TIME_MODEL"
NAME = "livecr:time="  # followed by the model

#: Where a wish may come from, the one that wins first; "" is that there is none.
BY_ENVIRONMENT, BY_MAPPING, BY_MEMFD, BY_NOBODY = ORIGINS = ("environment", "mapping", "memfd", "")

_MEMFD, _DELETED = "/memfd:", " (deleted)"
_NR_PRCTL = 157
_PR_SET_VMA, _PR_SET_VMA_ANON_NAME = 0x53564D41, 0
_PAGE_BYTES = 4096

#: What holds this process's own wish: a mapping, or the descriptor of a memfd.
_own: object = None


def wished(mappings: dict[int, list[procfs.Mapping]]) -> tuple[str, str]:
    """The time model that a frozen program wishes for, and the wish's origin; (RELATIVE, "") without one.

    ``mappings``: of each process, by PID. The first that wishes for something speaks for all: they have one
    time.
    """
    for pid, own in mappings.items():
        links = (procfs.link(pid, f"fd/{fd}") for fd in os.listdir(procfs.path(pid, "fd")))
        found = find(procfs.read(pid, "environ"), own, links)
        if found[1] != BY_NOBODY:
            return found
    return RELATIVE, BY_NOBODY


def find(environ: bytes, mappings: list[procfs.Mapping], descriptors: Iterable[str]) -> tuple[str, str]:
    """The same for one process, from what /proc says; ``descriptors``: where the links in its fd point.

    Whoever starts a program is nearer to the user than its code: the environment wins.
    """
    for entry in environ.split(b"\0"):
        name, _, value = entry.partition(b"=")
        if name == ENVIRONMENT.encode() and value.decode("ascii", "replace") in MODELS:
            return value.decode(), BY_ENVIRONMENT
    for mapping in mappings:
        model = _named(mapping.name) or _named_memfd(mapping.path)
        if model:
            return model, BY_MAPPING
    for link in descriptors:
        model = _named_memfd(link)
        if model:
            return model, BY_MEMFD
    return RELATIVE, BY_NOBODY


def _named(name: str) -> str:
    """The model that a name wishes for; "" for other names."""
    model = name.removeprefix(NAME)
    return model if model != name and model in MODELS else ""


def _named_memfd(path: str) -> str:
    return _named(path.removeprefix(_MEMFD).removesuffix(_DELETED)) if path.startswith(_MEMFD) else ""


def advise(model: str) -> None:
    """Let this process wish for ``model``, in place of what it has wished for before.

    Raises UsageError when there is no such model. The wish is an anonymous mapping of one page with a name,
    or a memfd where the kernel has no such names (CONFIG_ANON_VMA_NAME); a child made by fork shares it.
    """
    global _own
    if model not in MODELS:
        raise UsageError(f"there is no time model {model!r}", way_out="it is relative or absolute")
    if isinstance(_own, int):
        os.close(_own)
    name = NAME + model
    _own = _named_page(name) or os.memfd_create(name)


def _named_page(name: str) -> object:
    """A mapping of that name; None where mappings can have none."""
    from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap

    from livecr._native import ffi, lib

    page = mmap(-1, _PAGE_BYTES, MAP_PRIVATE | MAP_ANONYMOUS)
    text = ffi.new("char[]", name.encode())
    address = [int(ffi.cast("uintptr_t", pointer)) for pointer in (ffi.from_buffer(page), text)]
    call = (_NR_PRCTL, _PR_SET_VMA, _PR_SET_VMA_ANON_NAME, address[0], _PAGE_BYTES, address[1], 0)
    if lib.lcr_syscall(*call) < 0:
        page.close()
        return None
    return page
