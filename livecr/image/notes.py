"""The notes of an ELF core: registers and auxiliary vector, in the layout and order that Linux itself writes.

Relies on the note formats of fs/binfmt_elf.c and <sys/procfs.h>, which gdb and readelf know. Called by
livecr.image.elfcore only.
"""

from __future__ import annotations

import os
from struct import Struct
from struct import error as StructError

from livecr.errors import BadImage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from livecr.image.elfcore import Mapping

__all__ = ["REGISTERS_BYTES", "Process", "Thread", "pack", "unpack"]

REGISTERS_BYTES = 216  # struct user_regs_struct
_FXSAVE_BYTES = 512  # the legacy part that an XSAVE area begins with
_XSTATE_BYTES_MIN = 576  # with the XSAVE header behind it
_SIGINFO_BYTES = 128
_PAGE_BYTES = 4096

# Types and owners: include/uapi/linux/elf.h.
_NT_PRSTATUS = (b"CORE", 1)
_NT_FPREGSET = (b"CORE", 2)
_NT_PRPSINFO = (b"CORE", 3)
_NT_AUXV = (b"CORE", 6)
_NT_SIGINFO = (b"CORE", 0x53494749)
_NT_FILE = (b"CORE", 0x46494C45)
_NT_X86_XSTATE = (b"LINUX", 0x202)

_HEADER = Struct("<III")  # Elf64_Nhdr: namesz, descsz, type
# struct elf_prstatus: elf_siginfo, cursig, sigpend, sighold, pid, ppid, pgrp, sid, 4 timevals, reg, fpvalid
_PRSTATUS = Struct(f"<iiihxxQQiiii64x{REGISTERS_BYTES}sixxxx")
# struct elf_prpsinfo: state, sname, zomb, nice, flag, uid, gid, pid, ppid, pgrp, sid, fname, psargs
_PRPSINFO = Struct("<bcbbxxxxQIIiiii16s80s")
_FILE_RANGE = Struct("<QQQ")  # start, end, offset in pages


class Thread:
    """One thread as the notes tell it: ``registers`` is struct user_regs_struct, ``xstate`` an XSAVE area."""

    __slots__ = ("registers", "signal_mask", "signals_pending", "tid", "xstate")

    def __init__(
        self, tid: int, registers: bytes, xstate: bytes, *, signal_mask: int = 0, signals_pending: int = 0
    ) -> None:
        self.tid = tid
        self.registers = registers
        self.xstate = xstate
        self.signal_mask = signal_mask
        self.signals_pending = signals_pending


class Process:
    """What the notes tell of the process; ``auxv`` as in /proc/PID/auxv, ``arguments`` as in cmdline."""

    __slots__ = ("arguments", "auxv", "comm", "gid", "nice", "pgid", "pid", "ppid", "sid", "uid")

    def __init__(
        self,
        pid: int,
        *,
        auxv: bytes,
        ppid: int = 0,
        pgid: int = 0,
        sid: int = 0,
        uid: int = 0,
        gid: int = 0,
        nice: int = 0,
        comm: bytes = b"",
        arguments: bytes = b"",
    ) -> None:
        self.pid = pid
        self.auxv = auxv
        self.ppid = ppid
        self.pgid = pgid
        self.sid = sid
        self.uid = uid
        self.gid = gid
        self.nice = nice
        self.comm = comm
        self.arguments = arguments


def pack(process: Process, threads: Sequence[Thread], mappings: Sequence[Mapping]) -> bytes:
    """The whole note segment; the first thread is the one that a debugger shows first."""
    notes: list[bytes] = []
    for thread in threads:
        _add(notes, _NT_PRSTATUS, _prstatus(process, thread))
        if thread is threads[0]:
            _add(notes, _NT_PRPSINFO, _prpsinfo(process))
            _add(notes, _NT_SIGINFO, bytes(_SIGINFO_BYTES))
            _add(notes, _NT_AUXV, process.auxv)
            _add(notes, _NT_FILE, _file(mappings))
        _add(notes, _NT_FPREGSET, thread.xstate[:_FXSAVE_BYTES])
        _add(notes, _NT_X86_XSTATE, thread.xstate)
    return b"".join(notes)


def unpack(segment: bytes, where: str) -> tuple[list[Thread], bytes]:
    """The threads in the order of the file, and the auxiliary vector. Raises BadImage."""
    threads: list[Thread] = []
    auxv: bytes | None = None
    for kind, content in _each(segment, where):
        if kind == _NT_PRSTATUS:
            threads.append(_thread(content, where))
        elif kind == _NT_X86_XSTATE:
            if not threads or threads[-1].xstate or len(content) < _XSTATE_BYTES_MIN:
                raise BadImage("a register note (NT_X86_XSTATE) has no thread or the wrong size", where=where)
            threads[-1].xstate = content
        elif kind == _NT_AUXV:
            if auxv is not None or len(content) % 16:
                raise BadImage("the auxiliary vector (NT_AUXV) is damaged", where=where)
            auxv = content
    if not threads or auxv is None or not all(thread.xstate for thread in threads):
        raise BadImage("registers or the auxiliary vector are missing from its notes", where=where)
    if len({thread.tid for thread in threads}) != len(threads):
        raise BadImage("it has one thread twice", where=where)
    return threads, auxv


def _add(notes: list[bytes], kind: tuple[bytes, int], content: bytes) -> None:
    name, number = kind
    notes += (
        _HEADER.pack(len(name) + 1, len(content), number),
        name.ljust(8, b"\0"),  # both owners' names fill 8 bytes with their padding to 4
        content,
        bytes(-len(content) % 4),
    )


def _prstatus(process: Process, thread: Thread) -> bytes:
    return _PRSTATUS.pack(
        *(0, 0, 0, 0),  # no signal: it was frozen, not killed
        thread.signals_pending,
        thread.signal_mask,
        *(thread.tid, process.ppid, process.pgid, process.sid),
        thread.registers,
        1,
    )


def _prpsinfo(process: Process) -> bytes:
    return _PRPSINFO.pack(
        *(1, b"S", 0, process.nice, 0),
        *(process.uid, process.gid, process.pid, process.ppid, process.pgid, process.sid),
        process.comm[:15],
        process.arguments.replace(b"\0", b" ").rstrip()[:79],
    )


def _file(mappings: Sequence[Mapping]) -> bytes:
    files = [mapping for mapping in mappings if mapping.path]
    ranges = [_FILE_RANGE.pack(file.start, file.end, file.offset // _PAGE_BYTES) for file in files]
    names = [os.fsencode(file.path) + b"\0" for file in files]
    return b"".join([len(files).to_bytes(8, "little"), _PAGE_BYTES.to_bytes(8, "little"), *ranges, *names])


def _each(segment: bytes, where: str) -> Iterator[tuple[tuple[bytes, int], bytes]]:
    at = 0
    while at < len(segment):
        try:
            name_bytes, content_bytes, number = _HEADER.unpack_from(segment, at)
        except StructError:
            raise BadImage("its notes are cut short", where=where) from None
        name_at = at + _HEADER.size
        content_at = name_at + (name_bytes + 3) // 4 * 4
        at = content_at + (content_bytes + 3) // 4 * 4
        if at > len(segment):
            raise BadImage("its notes are cut short", where=where)
        name = segment[name_at : name_at + name_bytes].rstrip(b"\0")
        yield (name, number), segment[content_at : content_at + content_bytes]


def _thread(content: bytes, where: str) -> Thread:
    if len(content) != _PRSTATUS.size:
        raise BadImage("a thread's note (NT_PRSTATUS) has the wrong size", where=where)
    fields = _PRSTATUS.unpack(content)
    pending, mask, tid, registers = fields[4], fields[5], fields[6], fields[10]
    if tid <= 0:
        raise BadImage("a thread's note (NT_PRSTATUS) has no thread ID", where=where)
    return Thread(tid, registers, b"", signal_mask=mask, signals_pending=pending)
