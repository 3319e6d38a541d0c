"""What /proc/PID says: memory mappings, status, stat, descriptors, timers (proc(5)).

Plain parsing of text that the kernel writes; nothing here is traced or changed. Of a process whose leader has
exited it is what another thread shows, but for what the leader has for itself. Called by kinds and target.
"""

from __future__ import annotations

import os
from contextlib import suppress

from livecr.errors import Failed
from livecr.kernel import leader

__all__ = [
    "Descriptor",
    "Mapping",
    "children",
    "descriptor",
    "descriptors",
    "exit_status",
    "is_ending",
    "is_worker",
    "layout",
    "limits",
    "link",
    "mappings",
    "namespace",
    "path",
    "posix_timers",
    "read",
    "stat",
    "state",
    "status",
    "task_state",
    "threads",
]


class Mapping:
    """One VMA. ``flags``: the VmFlags of smaps ("rd", "wr", "gd" …); ``name``: of an anonymous VMA.

    ``shares_pages``: another process has pages of it too, that are no file's or are written to (smaps).
    """

    __slots__ = (
        *("device", "end", "flags", "inode", "name", "offset", "path", "perms", "protection_key"),
        *("shares_pages", "start"),
    )

    def __init__(
        self, start: int, end: int, perms: str, offset: int, device: str, inode: int, path: str
    ) -> None:
        self.start = start
        self.end = end
        self.perms = perms  # "rwxp": as in maps
        self.offset = offset  # bytes
        self.device = device
        self.inode = inode
        self.path = path
        self.flags: list[str] = []
        self.shares_pages = False
        self.protection_key = 0
        self.name = path[6:-1] if path.startswith("[anon:") else ""

    @property
    def shared(self) -> bool:
        """MAP_SHARED?"""
        return self.perms[3] == "s"

    def __repr__(self) -> str:
        return f"{self.start:x}-{self.end:x} {self.perms} {self.path}"


class Descriptor:
    """One open descriptor of process ``pid`` as fdinfo shows it.

    ``pos`` and ``flags`` (O_*) are of its description; other lines of fdinfo are in ``lines``.
    """

    __slots__ = ("fd", "flags", "lines", "mount", "pid", "pos", "target")

    def __init__(
        self, pid: int, fd: int, target: str, pos: int, flags: int, mount: int, lines: list[str]
    ) -> None:
        self.pid = pid
        self.fd = fd
        self.target = target  # what readlink says
        self.pos = pos
        self.flags = flags
        self.mount = mount
        self.lines = lines  # fdinfo, further lines

    @property
    def where(self) -> str:
        """As errors name it."""
        return f"process {self.pid}, descriptor {self.fd}"

    @property
    def path(self) -> str:
        """Where /proc has it; opened, it gives another description of the same file."""
        return path(self.pid, f"fd/{self.fd}")

    def stat(self) -> os.stat_result:
        """Of the file behind it. Raises OSError when it has just been closed."""
        return os.stat(self.path)


_READ_BYTES = 32768
_OF_LEADER = ("stat", "status", "comm")  # what a leader that has exited still has
_ENDED = (FileNotFoundError, ProcessLookupError)  # before the open, and between open and read


def path(pid: int, name: str) -> str:
    """Where /proc has file ``name`` of a process."""
    own = name in _OF_LEADER or name.startswith("task/")
    return f"/proc/{pid}/{name}" if own else leader.path(pid, name)


def read(pid: int, name: str) -> bytes:
    """The content of /proc/``pid``/``name``. Raises OSError."""
    fd = os.open(path(pid, name), os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = [os.read(fd, _READ_BYTES)]
        while parts[-1]:
            parts.append(os.read(fd, _READ_BYTES))
    finally:
        os.close(fd)
    return b"".join(parts)


def _text(pid: int, name: str) -> str:
    return read(pid, name).decode("utf-8", "surrogateescape")


def link(pid: int, name: str) -> str:
    """Where the symbolic link /proc/``pid``/``name`` points."""
    return os.readlink(path(pid, name))


def namespace(pid: int, kind: str) -> str:
    """The namespace of one kind ("pid", "mnt", …), as the kernel names it: ``pid:[4026531836]``."""
    return os.readlink(path(pid, f"ns/{kind}"))


def threads(pid: int) -> list[int]:
    """The TIDs of a process, ascending."""
    return sorted(int(name) for name in os.listdir(f"/proc/{pid}/task"))


# include/linux/sched.h: a task that the kernel made in the process, for io_uring or the like. It is shown
# among the threads, but never leaves the kernel.
_PF_EXITING, _PF_IO_WORKER, _PF_USER_WORKER = 0x4, 0x10, 0x4000


def is_worker(pid: int, tid: int) -> bool:
    """Whether a task of a process is a worker of the kernel's own; False if it has ended."""
    return bool(_task_flags(pid, tid) & (_PF_IO_WORKER | _PF_USER_WORKER))


def is_ending(pid: int, tid: int) -> bool:
    """Whether a task runs no code of its own any more, if it is there at all."""
    return bool(_task_flags(pid, tid) & _PF_EXITING)


def _task_flags(pid: int, tid: int) -> int:
    """PF_* (include/linux/sched.h), of one that has ended PF_EXITING."""
    try:
        text = _text(pid, f"task/{tid}/stat")
    except _ENDED:
        return _PF_EXITING
    return int(text[text.rindex(")") + 2 :].split()[9 - 3])


def children(pid: int) -> list[int]:
    """The PIDs of its children."""
    found: list[int] = []
    for tid in threads(pid):
        try:
            found.extend(int(word) for word in _text(pid, f"task/{tid}/children").split())
        except _ENDED:
            continue  # the thread has just ended; its children have gone to another thread of the process
    return found


def mappings(pid: int, *, with_flags: bool = True) -> list[Mapping]:
    """Every VMA, ascending; VmFlags only from smaps, which walks the page tables and so takes longer."""
    if not with_flags:
        return [_mapping(line) for line in _lines(pid, "maps")]
    lines = _lines(pid, "smaps")
    # Every VMA has as many lines, the last with its flags (fs/proc/task_mmu.c, show_smap), and there are so
    # many that not even a look at each is cheap.
    each = next((i + 1 for i, line in enumerate(lines) if line.startswith("VmFlags:")), 0)
    if not each:
        return []
    names = [line.partition(":")[0] for line in lines[1:each]]
    found = [_mapping(line) for line in lines[::each]]
    for mapping, line in zip(found, _column("VmFlags", names, lines, each), strict=True):
        mapping.flags = line[8:].split()
    if "ProtectionKey" in names:
        for mapping, line in zip(found, _column("ProtectionKey", names, lines, each), strict=True):
            mapping.protection_key = int(line[14:])
    for name in ("Shared_Clean", "Shared_Dirty"):
        for mapping, line in zip(found, _column(name, names, lines, each), strict=True):
            if not line.endswith(" 0 kB") and (name == "Shared_Dirty" or not mapping.path.startswith("/")):
                mapping.shares_pages = True
    return found


def _lines(pid: int, name: str) -> list[str]:
    """Not str.splitlines(): a path may have a carriage return, or another of its separators, in it."""
    return _text(pid, name).split("\n")[:-1]


def _column(name: str, names: list[str], lines: list[str], each: int) -> list[str]:
    """The line ``name`` of every VMA."""
    column = lines[1 + names.index(name) :: each]
    if not all(line.startswith(name) for line in column):
        raise Failed(f"smaps does not have a line {name} for every mapping")
    return column


def _mapping(line: str) -> Mapping:
    words = line.split(None, 5)
    start, end = words[0].split("-")
    path = _unescape(words[5]) if len(words) > 5 else ""
    return Mapping(int(start, 16), int(end, 16), words[1], int(words[2], 16), words[3], int(words[4]), path)


def _unescape(path: str) -> str:
    # maps writes a newline in a path as \012, and nothing else specially (fs/proc/task_mmu.c, seq_file_path).
    return path.replace("\\012", "\n")


def status(pid: int, tid: int | None = None) -> dict[str, str]:
    """The lines of /proc/PID/status, or of one task's, by their names."""
    text = _text(pid, f"task/{tid}/status" if tid is not None else "status")
    found = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        found[name] = value.strip()
    return found


def stat(pid: int) -> dict[str, int]:
    """The fields of /proc/PID/stat that hold the process's place and its memory layout."""
    words = _stat_words(pid)
    return {name: int(words[number - 3]) for number, name in _STAT_FIELDS}


def layout(pid: int) -> dict[str, int]:
    """Those of them that tell the memory layout."""
    words = _stat_words(leader.number(pid))
    return {name: int(words[number - 3]) for number, name in _STAT_FIELDS if number in _LAYOUT_FIELDS}


def state(pid: int) -> str:
    """R, S, D, T, t, Z, X …: of its leader (proc_pid_stat(5))."""
    return _stat_words(pid)[0]


def exit_status(pid: int) -> int:
    """Of a leader that has exited, as wait(2) would give it; not that of the process (fs/proc/array.c)."""
    return int(_words(_text(pid, f"task/{pid}/stat"))[_EXIT_CODE - 3])


def task_state(pid: int, tid: int) -> str:
    """The same of one of its tasks."""
    return _words(_text(pid, f"task/{tid}/stat"))[0]


def _stat_words(pid: int) -> list[str]:
    return _words(_text(pid, "stat"))


def _words(text: str) -> list[str]:
    return text[text.rindex(")") + 2 :].split()  # words[0] is field 3


_EXIT_CODE = 52
# Number of the field in /proc/PID/stat, and its name in proc_pid_stat(5).
_STAT_FIELDS = (
    (4, "ppid"),
    (5, "pgrp"),
    (6, "session"),
    (7, "tty_nr"),
    (8, "tpgid"),
    (38, "exit_signal"),
    (_EXIT_CODE, "exit_code"),
    (26, "startcode"),
    (27, "endcode"),
    (28, "startstack"),
    (45, "start_data"),
    (46, "end_data"),
    (47, "start_brk"),
    (48, "arg_start"),
    (49, "arg_end"),
    (50, "env_start"),
    (51, "env_end"),
)
_LAYOUT_FIELDS = frozenset(range(26, 29)) | frozenset(range(45, 52))


def descriptors(pid: int) -> list[Descriptor]:
    """Every open descriptor, ascending by number; of a running process, those that stay open meanwhile."""
    found = []
    for fd in sorted(int(name) for name in os.listdir(path(pid, "fd"))):
        with suppress(FileNotFoundError):  # it has just been closed
            found.append(descriptor(pid, fd))
    return found


def descriptor(pid: int, fd: int) -> Descriptor:
    """One of them. Raises FileNotFoundError."""
    pos = flags = mount = 0
    rest = []
    lines, target = _text(pid, f"fdinfo/{fd}").splitlines(), link(pid, f"fd/{fd}")
    for line in lines:
        name, _, value = line.partition(":")
        if name == "pos":
            pos = int(value)
        elif name == "flags":
            flags = int(value, 8)
        elif name == "mnt_id":
            mount = int(value)
        else:
            rest.append(line)
    return Descriptor(pid, fd, target, pos, flags, mount, rest)


def limits(pid: int) -> list[list[int]]:
    """Soft and hard of every resource limit, in the order of their numbers (RLIMIT_CPU is 0); -1 for none."""
    found = []
    for line in _text(pid, "limits").splitlines()[1:]:
        words = line[26:].split()  # behind the name, which has spaces in it
        found.append([-1 if word == "unlimited" else int(word) for word in words[:2]])
    return found


def posix_timers(pid: int) -> list[dict[str, str]]:
    """/proc/PID/timers: one dict a timer with "ID", "signal", "notify", "ClockID"."""
    found: list[dict[str, str]] = []
    for line in _text(pid, "timers").splitlines():
        name, _, value = line.partition(":")
        if name == "ID":
            found.append({})
        found[-1][name] = value.strip()
    return found
