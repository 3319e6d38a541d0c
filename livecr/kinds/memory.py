"""The address space: every VMA, where it comes from, and the layout that /proc/PID/stat tells.

What a private mapping holds of its own, and what is in shared anonymous memory, travels in the core file
(kinds/pages.py); here is the frame. Relies on VmFlags in smaps (proc_pid_smaps(5)), on /proc/PID/map_files
and on prctl(PR_SET_MM_MAP).
"""

from __future__ import annotations

import os

from livecr.errors import Failed, Obstacle, Refused
from livecr.image.record import Record
from livecr.kernel import machine, procfs, vdso
from livecr.kernel.async_io import AIO_PATH, RING_PATH
from livecr.kernel.reopen import open_again
from livecr.kinds import aio, inherited, io_uring, kernel_code, layout, mapped_files, sysv_shm, unlinked
from livecr.kinds.mapped_files import ZEROS, MappedFile, difference
from livecr.target.compat import TASK_SIZE
from livecr.target.program import Program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.target.engine import Borrowed
    from livecr.target.process import Process
    from livecr.target.spawn import Seed

__all__ = [
    "USER_END",
    "GuardRange",
    "MappedFile",
    "Memory",
    "Vma",
    "check",
    "finish",
    "load",
    "look_ahead",
    "obstacles",
    "save",
    "shared_objects",
]

PAGE_BYTES = 4096
#: By the abi of a process: where its address space ends.
USER_END = {machine.X86_64: 0x7FFFFFFFF000, machine.I386: TASK_SIZE}

PROT_READ, PROT_WRITE, PROT_EXEC = 1, 2, 4
MAP_SHARED, MAP_PRIVATE, MAP_DROPPABLE, MAP_FIXED, MAP_ANONYMOUS = 0x01, 0x02, 0x08, 0x10, 0x20
MAP_GROWSDOWN, MAP_NORESERVE = 0x0100, 0x4000
MLOCK_ONFAULT = 1
_O_LARGEFILE = 0o100000
PR_SET_VMA, PR_SET_VMA_ANON_NAME = 0x53564D41, 0

# VmFlags that mmap(2) sets, and the flag that asks for them.
_MMAP_FLAGS = {"gd": MAP_GROWSDOWN, "nr": MAP_NORESERVE}

# VmFlags that madvise(2) sets, and the advice (include/uapi/asm-generic/mman-common.h).
_ADVICE = {
    "rr": 1,  # MADV_RANDOM
    "sr": 2,  # MADV_SEQUENTIAL
    "dc": 10,  # MADV_DONTFORK
    "mg": 12,  # MADV_MERGEABLE
    "hg": 14,  # MADV_HUGEPAGE
    "nh": 15,  # MADV_NOHUGEPAGE
    "dd": 16,  # MADV_DONTDUMP
    "wf": 18,  # MADV_WIPEONFORK
}
_MADV_GUARD_INSTALL = 102

# VmFlags of memory that cannot be saved, and what it is.
_UNSAVABLE = {
    "pf": "memory of a device",
    "io": "memory of a device",
    "mm": "memory of a device",
    "ht": "huge pages of hugetlbfs",
    "um": "memory watched by a userfaultfd",
    "uw": "memory watched by a userfaultfd",
    "ui": "memory watched by a userfaultfd",
    "ss": "a shadow stack",
}

# Mappings that the kernel makes by itself, by their names in maps.
_KERNEL_MAPPINGS = ("[vvar]", "[vvar_vclock]", vdso.NAME)
_IGNORED = ("[vsyscall]",)
_SHARED_ANONYMOUS = "/dev/zero (deleted)"


class GuardRange(Record):
    """Pages that MADV_GUARD_INSTALL made: touching them is a SIGSEGV."""

    start: int
    end: int


class Vma(Record):
    """One mapping. ``kind``: "anonymous", "file", "shared" (anonymous shared memory), "sysv" or "kernel".

    The rings of io_uring and AIO ("io_uring", "aio") are anonymous memory until their owners are made.
    """

    start: int
    end: int
    perms: str
    kind: str
    flags: list[str]  # VmFlags, of which those in _MMAP_FLAGS, _ADVICE and the like are restored
    offset: int  # bytes into the file or the shared object
    #: Index into Memory.files; inode number of shared anonymous memory; id of a System V segment; descriptor
    #: of io_uring; -1.
    file: int
    name: str  # [heap], [stack], [vdso], or as given by PR_SET_VMA_ANON_NAME


class Memory(Record):
    """The mm of a process. ``layout``: the fields of struct prctl_mm_map, by their names.

    ``abi``: "x86-64", or "i386" for a 32-bit address space and vDSO.
    """

    vmas: list[Vma]
    files: list[MappedFile]
    guards: list[GuardRange]
    layout: dict[str, int]
    exe: MappedFile
    vdso_xxh3: str
    aio: list[aio.Context]
    abi: str = machine.X86_64


# -- what stands in the way --------------------------------------------------------------------------------


def obstacles(pid: int, mappings: list[procfs.Mapping]) -> list[Obstacle]:
    """What of these mappings cannot be saved. VmFlags are looked at where they have been read."""
    task = f"process {pid}"
    found = []
    for m in mappings:
        what = _unsavable(pid, m)
        if what:
            found.append(
                Obstacle(task, f"{what} at {m.start:x}-{m.end:x} ({m.path or 'anonymous'})", _ways_out(what))
            )
    return found


def _ways_out(what: str) -> str:
    if "file" in what:
        return "put the file back where it was"
    return "this version of livecr cannot save it"


def _unsavable(pid: int, m: procfs.Mapping) -> str:
    if m.path in _KERNEL_MAPPINGS or m.path in _IGNORED or m.path in (RING_PATH, AIO_PATH):
        return ""
    for flag in m.flags:
        if flag in _UNSAVABLE:
            return _UNSAVABLE[flag]
    if sysv_shm.is_segment(m):
        return ""
    if _is_shared_anonymous(m) or (m.path == ZEROS and not m.shared):
        return ""
    if unlinked.is_nameless(m):
        return unlinked.obstacle(pid, m)
    if m.path.startswith("/dev/") and not m.path.startswith("/dev/shm/"):
        return "a device"
    if m.path.startswith(("anon_inode:", "[uprobes]", "socket:")):
        return "kernel memory"
    return ""


def _is_shared_anonymous(m: procfs.Mapping) -> bool:
    return m.shared and m.path == _SHARED_ANONYMOUS


# -- saving ------------------------------------------------------------------------------------------------


def save(
    frozen: Process,
    mappings: list[procfs.Mapping],
    guards: list[tuple[int, int]],
    nameless: unlinked.Saver,
    borrowed: Borrowed,
) -> Memory:
    """Describe the address space of a frozen process. Raises Refused for what cannot be saved."""
    pid = frozen.pid
    in_the_way = obstacles(pid, mappings)
    if in_the_way:
        raise Refused.because(in_the_way)
    files: list[MappedFile] = []
    known: dict[tuple[str, str, int], int] = {}
    vmas = []
    rings = io_uring.mapped(pid) if any(m.path == RING_PATH for m in mappings) else {}
    for m in mappings:
        if m.path in _IGNORED:
            continue
        kind, file = "anonymous", -1
        if m.path in _KERNEL_MAPPINGS:
            kind = "kernel"
        elif _is_shared_anonymous(m):
            kind, file = "shared", m.inode
        elif m.path == RING_PATH:
            kind, file = "io_uring", rings[m.start]
        elif m.path == AIO_PATH:
            kind = "aio"
        elif sysv_shm.is_segment(m):
            kind, file = sysv_shm.KIND, m.inode
        elif m.path.startswith("/"):
            kind = "file"
            which = (m.path, m.device, m.inode)
            if which not in known:
                known[which] = len(files)
                files.append(mapped_files.identify(pid, m, nameless))
            file = known[which]
        name = m.name or (m.path if m.path.startswith("[") and kind != "file" else "")
        vmas.append(
            Vma(
                start=m.start,
                end=m.end,
                perms=m.perms,
                kind=kind,
                flags=m.flags,
                offset=m.offset,
                file=file,
                name=name,
            )
        )
    return Memory(
        vmas=vmas,
        files=files,
        guards=[GuardRange(start=start, end=end) for start, end in guards],
        layout=layout.save(pid, borrowed),
        exe=mapped_files.identify_executable(pid, nameless),
        vdso_xxh3=kernel_code.vdso_xxh3(vmas, borrowed.task, compat=frozen.compat),
        aio=aio.save(pid, {m.start: m.end - m.start for m in mappings if m.path == AIO_PATH}),
        abi=machine.I386 if frozen.compat else machine.X86_64,
    )


def look_ahead(mappings: list[procfs.Mapping]) -> None:
    """What can be found out while the program still runs."""
    mapped_files.look_ahead(mappings)
    vdso.digest()


# -- checking before a restore -----------------------------------------------------------------------------


def check(memory: Memory) -> None:
    """Refuse before anything is made: are all mapped files still the same, is the vDSO? Raises Refused."""
    for file in [*memory.files, memory.exe]:
        why = difference(file)
        if why:
            raise Refused(
                f"{file.path} {why} since the checkpoint",
                where="a mapped file",
                way_out="put back the file as it was at the checkpoint, or make a new checkpoint",
            )
    if memory.abi == machine.X86_64 and memory.vdso_xxh3 and memory.vdso_xxh3 != vdso.digest():
        raise Refused(_OTHER_VDSO, way_out=_OTHER_KERNEL)


_OTHER_VDSO = "the image was made under a kernel with another vDSO"
_OTHER_KERNEL = "restore it under the kernel that `livecr show` names"


# -- loading -----------------------------------------------------------------------------------------------


def shared_objects(memories: list[Memory]) -> dict[int, int]:
    """Make each piece of shared anonymous memory anew: its old inode number to a descriptor of ours."""
    from mmap import MAP_ANONYMOUS as anonymous
    from mmap import MAP_SHARED as shared
    from mmap import mmap

    sizes: dict[int, int] = {}
    for vma in (vma for memory in memories for vma in memory.vmas):
        if vma.kind == "shared":
            sizes[vma.file] = max(sizes.get(vma.file, 0), vma.offset + vma.end - vma.start)
    made = {}
    for inode, size in sizes.items():
        before = {(m.start, m.end) for m in procfs.mappings(os.getpid(), with_flags=False)}
        mapping = mmap(-1, size, shared | anonymous)
        new = next(
            m
            for m in procfs.mappings(os.getpid(), with_flags=False)
            if (m.start, m.end) not in before and m.end - m.start >= size and _is_shared_anonymous(m)
        )
        path = f"/proc/self/map_files/{new.start:x}-{new.end:x}"
        made[inode] = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        mapping.close()
    return made


def load(
    memory: Memory,
    seed: Seed,
    shared: dict[int, int],
    nameless: list[int],
    holding: set[int],
    kept: list[inherited.Inherited],
    parents: Memory | None,
) -> None:
    """Make every mapping in the seed, still writable; the pages come next, then finish().

    ``nameless``: descriptors of ours of the files in Content.unlinked. ``holding``: the start addresses of
    the VMAs into which pages will be loaded. ``kept``: what stays as the parent had it. ``parents``: the
    memory that the seed was born with.
    """
    staying = inherited.keep(kept, memory, parents, seed)
    program = Program()
    kernel = [vma for vma in memory.vmas if vma.kind == "kernel"]
    if kernel and (kernel[0].start, kernel[0].end) not in staying:
        program.add("arch_prctl", kernel_code.ARCH_MAP_VDSO[memory.abi], kernel[0].start)
    opened: dict[tuple[int, bool], int] = {}
    others = [vma for vma in memory.vmas if vma.kind not in ("kernel", sysv_shm.KIND)]
    made = [vma for vma in others if (vma.start, vma.end) not in staying]
    try:
        ours = {vma.start: _backing(vma, memory, shared, nameless, opened) for vma in made}
        theirs = seed.fetch([fd for fd in dict.fromkeys(ours.values()) if fd >= 0])
        for vma in others:
            protection = _first_protection(vma, vma.start in holding)
            if vma.start in ours:
                fd = theirs.get(ours[vma.start], -1)
                args = (protection, _mmap_flags(vma), fd, max(vma.offset, 0))
                program.add("mmap", vma.start, vma.end - vma.start, *args)
            else:
                program.add("mprotect", vma.start, vma.end - vma.start, protection)
        seed.run(program)
        if memory.abi != machine.X86_64 and memory.vdso_xxh3 != kernel_code.vdso_xxh3(
            memory.vmas, seed.leader, compat=True
        ):
            raise Refused(_OTHER_VDSO, way_out=_OTHER_KERNEL)  # only here is one to compare with
    finally:
        for fd in opened.values():
            os.close(fd)
    seed.drop_fetched()  # known by numbers of ours, which will now be used for other files
    inherited.drop_the_rest(kept, seed)


def _mmap_flags(vma: Vma) -> int:
    plain = vma.kind in ("anonymous", "io_uring", "aio")
    flags = MAP_FIXED | (MAP_SHARED if vma.perms[3] == "s" and not plain else MAP_PRIVATE)
    if "dp" in vma.flags:
        flags = MAP_FIXED | MAP_DROPPABLE
    if plain:
        flags |= MAP_ANONYMOUS
    for name, flag in _MMAP_FLAGS.items():
        if name in vma.flags and "dp" not in vma.flags:
            flags |= flag
    return flags


def _backing(
    vma: Vma,
    memory: Memory,
    shared: dict[int, int],
    nameless: list[int],
    opened: dict[tuple[int, bool], int],
) -> int:
    """Our descriptor of what the mapping shows; -1 for none."""
    if vma.kind == "shared":
        return shared[vma.file]
    return _open(vma, memory, nameless, opened) if vma.kind == "file" else -1


def _open(vma: Vma, memory: Memory, nameless: list[int], opened: dict[tuple[int, bool], int]) -> int:
    writable = vma.perms[3] == "s" and "mw" in vma.flags
    key = (vma.file, writable)
    if key not in opened:
        file = memory.files[vma.file]
        path, flags = file.path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC
        try:
            if file.unlinked >= 0:
                opened[key] = open_again(nameless[file.unlinked], flags | _O_LARGEFILE)
            else:
                opened[key] = os.open(path, flags)
        except OSError as error:
            raise Failed(f"{path}: {error.strerror}", where="a mapped file") from None
    return opened[key]


def _protection(vma: Vma) -> int:
    bits = zip(vma.perms, (PROT_READ, PROT_WRITE, PROT_EXEC), strict=False)
    return sum(bit for letter, bit in bits if letter != "-")


def _first_protection(vma: Vma, holds_pages: bool) -> int:
    """Writable where pages have to be loaded, or where it once was: for that the kernel accounts ("ac")."""
    if holds_pages or "ac" in vma.flags:
        return _protection(vma) | PROT_READ | PROT_WRITE
    return _protection(vma)


def finish(memory: Memory, seed: Seed, auxv: bytes, holding: set[int], nameless: list[int]) -> None:
    """Once the pages are there: protections, advice, locks, guards, names, and the layout."""
    program = Program()
    for vma in memory.vmas:
        if vma.kind == "kernel":
            continue
        size = vma.end - vma.start
        if _first_protection(vma, vma.start in holding) != _protection(vma):
            program.add("mprotect", vma.start, size, _protection(vma))
        for flag, advice in _ADVICE.items():
            if flag in vma.flags and "dp" not in vma.flags:
                program.add("madvise", vma.start, size, advice)
        if "lo" in vma.flags:
            program.add("mlock2", vma.start, size, MLOCK_ONFAULT if "lf" in vma.flags else 0)
    for guard in memory.guards:
        program.add("madvise", guard.start, guard.end - guard.start, _MADV_GUARD_INSTALL)
    seed.run(program)
    _set_names(memory, seed)
    exe = memory.exe
    at = nameless[exe.unlinked] if exe.unlinked >= 0 else -1
    layout.load(memory.layout, f"/proc/self/fd/{at}" if at >= 0 else exe.path, auxv, seed)


def _set_names(memory: Memory, seed: Seed) -> None:
    for vma in memory.vmas:
        if vma.kind == "anonymous" and vma.name and not vma.name.startswith("["):
            program = Program()
            address = seed.put(vma.name.encode() + b"\0")
            program.add(
                "prctl", PR_SET_VMA, PR_SET_VMA_ANON_NAME, vma.start, vma.end - vma.start, address, must=False
            )
            seed.run(program)
