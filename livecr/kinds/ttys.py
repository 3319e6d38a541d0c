"""Terminals: pseudoterminals whose master is in the tree, and the one terminal that a program was started at.

Of a pair all is saved: settings, window size, session and foreground group, and what waits in both
directions, which the kernel only tells by BPF (kernel/pty). Of a terminal whose master is outside, the
program's settings; what is typed there and not read stays there. Relies on tty_ioctl(4), ioctl_tty(2),
pty(7). Loaded by ttys_made; called by descriptors.
"""

from __future__ import annotations

import os
from contextlib import suppress

from livecr.errors import Obstacle, Refused
from livecr.image.record import Record
from livecr.kernel import holders, machine, procfs, pty
from livecr.kernel.pidfd import Duplicate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from livecr.kernel.pty import Pty

__all__ = ["Look", "Pair", "Piece", "PtyMaster", "Terminal", "Tty"]

_FLAGS = os.O_ACCMODE | os.O_APPEND | os.O_NONBLOCK | 0o100000  # O_LARGEFILE
_MASTERS = ("/dev/ptmx", "/dev/pts/ptmx")
_SLAVE_MAJORS = range(136, 144)  # Documentation/admin-guide/devices.txt
_N_TTY = 0
_ICANON, _VTIME, _VMIN = 0o2, 5, 6  # asm-generic/termbits.h
#: read and readv, by kind of program.
_READS = {machine.X86_64: (0, 19), machine.I386: (3, 145)}
_FINISH_OUTPUT = "let the other side read, or continue its output, and try again"


class Piece(Record):
    """What was typed and not read: ``data``, and whether its last byte ends a line."""

    data: bytes
    ends: bool


class Pair(Record):
    """A pty of the tree's own. ``uid``, ``gid``, ``mode``: of /dev/pts/``number``.

    ``unseen``: input that the line discipline has not looked at; ``output``: what the master has not read.
    ``stopped``: "", "flow" or "character"; ``hung_up``: the slave has been open and is not any more;
    ``exclusive``: of the master and of the slave.
    """

    number: int
    uid: int
    gid: int
    mode: int
    is_locked: bool
    hung_up: bool
    packet_mode: bool
    exclusive: list[bool]
    stopped: str
    literal_next: bool
    input: list[Piece]
    unseen: bytes
    output: bytes


class Terminal(Record):
    """``termios``: struct termios2; ``locked``: struct termios of TIOCGLCKTRMIOS; ``window``: struct winsize.

    ``session`` and ``foreground``: PIDs, 0 for none; ``holders``: processes that it controls. ``pair``: None
    if its master was outside.
    """

    path: str
    termios: bytes
    locked: bytes
    window: bytes
    session: int
    foreground: int
    holders: list[int]
    pair: Pair | None = None


class PtyMaster(Record, tag="pty-master"):
    """``terminal``: the place in Table.terminals."""

    path: str
    terminal: int
    flags: int


class Tty(Record, tag="tty"):
    """An open terminal, a slave too. ``terminal``: None if it has been hung up: its master is gone."""

    path: str
    terminal: int | None
    flags: int


def obstacle(d: procfs.Descriptor, stat: os.stat_result) -> tuple[str, str] | None:
    """One alone tells nothing; see Look."""
    return None


class Look:
    """The terminals of a tree, as they are when this is made."""

    def __init__(self, found: list[procfs.Descriptor], insiders: frozenset[int]) -> None:
        """``found``: the descriptors of this kind of processes ``insiders``."""
        self._insiders = insiders
        self._found = found
        #: Major and minor number of each; None of one that is hung up, or has just been closed.
        self.numbers = {d: _number(d) for d in found}
        self._places = {}
        for pid in insiders:
            with suppress(FileNotFoundError, ProcessLookupError):
                self._places[pid] = procfs.stat(pid)
        self.ptys: dict[tuple[int, int], Pty] = {}
        self._unavailable = ""
        with_masters = sorted({d.pid for d in found if d.target in _MASTERS})
        if with_masters:
            try:
                self.ptys = {_slave(p.number): p for p in pty.read(with_masters)}
            except pty.Unavailable as reason:
                self._unavailable = str(reason)

    # -- what stands in the way --------------------------------------------------------------------------

    def obstacles(self) -> list[Obstacle]:
        """By name, each with the way out."""
        found = []
        for d in self._found:
            number = self.numbers[d]
            if d.target in _MASTERS:
                found += self._of_master(d, number)
            elif number and number not in self._inside() and self._is_device(number):
                what = f"the serial line {d.target} is not its controlling terminal"
                way_out = "let the program close it: this version keeps no serial lines"
                found.append(Obstacle(d.where, what, way_out))
        found += self._of_outsiders() + self._of_outside() + self._of_groups()
        return found + [stands for pid in sorted(self._insiders) for stands in self._of_reads(pid)]

    def _of_master(self, d: procfs.Descriptor, number: tuple[int, int] | None) -> list[Obstacle]:
        if self._unavailable:
            what = f"what waits in the terminal of {d.target} cannot be read: {self._unavailable}"
            return [Obstacle(d.where, what, "livecr doctor tells what BPF needs here")]
        one = self.ptys.get(number) if number else None
        if one is None:
            return []  # it has just been closed
        name = f"the terminal /dev/pts/{one.number}"
        wrong = []
        if one.slave.discipline != _N_TTY or one.master.discipline != _N_TTY:
            numbers = f"{one.slave.discipline}/{one.master.discipline}"
            wrong.append((f"{name} has the line discipline {numbers}", "only N_TTY (0) is kept"))
        if one.master.packet_status:
            wrong.append((f"the master of {name} has not read its packet status", "try again"))
        if one.master.stopped:
            wrong.append((f"the master of {name} is stopped (TCOOFF)", "let the program continue it"))
        if self._never_open(one) and (one.slave.pieces or one.slave.flip):
            what = f"{name} has input, and nobody has had it open yet"
            wrong.append((what, "try again when the program has opened it"))
        return [Obstacle(d.where, what, way_out) for what, way_out in wrong]

    def _never_open(self, one: Pty) -> bool:
        slave = _slave(one.number)
        is_open = any(n == slave for d, n in self.numbers.items() if d.target not in _MASTERS)
        return not is_open and not one.master.other_closed

    def _inside(self) -> set[tuple[int, int]]:
        """The slaves whose master is in the tree."""
        return {n for d, n in self.numbers.items() if n and d.target in _MASTERS}

    def _is_device(self, number: tuple[int, int]) -> bool:
        return number[0] not in _SLAVE_MAJORS and not self.holders(number)

    def holders(self, number: tuple[int, int]) -> list[int]:
        """The processes of the tree that a terminal controls."""
        return sorted(pid for pid, told in self._places.items() if _decoded(told["tty_nr"]) == number)

    def _of_outsiders(self) -> list[Obstacle]:
        """Pairs of the tree that another process has open too, or that control it."""
        inside = self._inside()
        found = {}
        for pid in holders.outsiders(self._insiders) if inside else ():
            for number in _held_by(pid) & inside:
                comm = procfs.read(pid, "comm").decode("utf-8", "replace").strip()
                what = f"the terminal /dev/pts/{_index(number)} is shared with process {pid} ({comm})"
                way_out = "checkpoint a process above both, or end that one"
                found[number] = Obstacle(self._where(number), what, way_out)
        return list(found.values())

    def _where(self, number: tuple[int, int]) -> str:
        return next(d.where for d, n in self.numbers.items() if n == number)

    def outside(self) -> list[tuple[int, int]]:
        """The terminals whose master is not in the tree: those open, and those of sessions that begin in it.

        A process that was started at a terminal and has none open is at home in livecr's session as well.
        """
        numbers = {n for n in self.numbers.values() if n}
        for told in self._places.values():
            number = _decoded(told["tty_nr"])
            if number and told["session"] in self._insiders:
                numbers.add(number)
        return sorted(n for n in numbers - self._inside() if not self._is_device(n))

    def _of_outside(self) -> list[Obstacle]:
        outside = self.outside()
        root = f"process {min(self._insiders)}"
        if len(outside) > 1:
            names = " and ".join(_path(number) for number in outside)
            what = f"it is at several terminals of others: {names}"
            return [Obstacle(root, what, "let it close all but one, or checkpoint what is at one of them")]
        found = []
        for number in outside:
            with suppress(OSError), _Opened(self, number) as fd:
                if int.from_bytes(pty.ask(fd, pty.TIOCGEXCL, 4), "little"):
                    what = f"its terminal {_path(number)} is in exclusive mode (TIOCEXCL)"
                    found.append(Obstacle(root, what, "this cannot be taken to another terminal"))
                if any(pty.ask(fd, pty.TIOCGLCKTRMIOS, pty.TERMIOS_BYTES)):
                    what = f"settings of its terminal {_path(number)} are locked (TIOCSLCKTRMIOS)"
                    found.append(Obstacle(root, what, "this cannot be taken to another terminal"))
        return found

    def _of_groups(self) -> list[Obstacle]:
        """The foreground group has to be there at restore."""
        groups = {told["pgrp"] for told in self._places.values()}
        found = []
        for pid, told in self._places.items():
            group, number = told["tpgid"], _decoded(told["tty_nr"])
            if told["session"] == pid and number and group > 0 and group not in groups:
                what = f"the foreground process group {group} of its terminal {_path(number)} has no member"
                found.append(Obstacle(f"process {pid}", what, "try again: its shell is about to change that"))
        return found

    def _of_reads(self, pid: int) -> list[Obstacle]:
        """Reads that a freeze would end too soon, or begin anew (drivers/tty/n_tty.c, n_tty_read)."""
        terminals = {d.fd: d for d, n in self.numbers.items() if d.pid == pid and n}
        found = []
        for tid in procfs.threads(pid) if terminals else ():
            with suppress(OSError, ValueError):
                words = procfs.read(pid, f"task/{tid}/syscall").split()
                d = (
                    terminals.get(int(words[1], 16))
                    if int(words[0]) in _READS.get(machine.of_process(pid), ())
                    else None
                )
                timing = _timing(d) if d else ""
                if timing:
                    what = f"it is in a read of {d.target} that waits by {timing}" if d else ""
                    found.append(
                        Obstacle(f"task {tid} of process {pid}", what, "try again when that has ended")
                    )
        return found

    # -- saving ------------------------------------------------------------------------------------------

    def save(self) -> tuple[list[Terminal], Callable[[procfs.Descriptor], PtyMaster | Tty]]:
        """Of a frozen tree: its terminals, and what makes the record of a descriptor."""
        order = [*sorted(self._inside()), *self.outside()]
        terminals = [self._terminal(number) for number in order]

        def record(d: procfs.Descriptor) -> PtyMaster | Tty:
            number = self.numbers[d]
            place = order.index(number) if number else None
            if d.target in _MASTERS and place is not None:
                return PtyMaster(path=d.target, terminal=place, flags=d.flags & _FLAGS)
            return Tty(path=d.target.removesuffix(" (deleted)"), terminal=place, flags=d.flags & _FLAGS)

        return terminals, record

    def _terminal(self, number: tuple[int, int]) -> Terminal:
        told = [self._places[pid] for pid in self.holders(number)]
        with _Opened(self, number) as fd:
            return Terminal(
                path=_path(number),
                termios=pty.ask(fd, pty.TCGETS2, pty.TERMIOS2_BYTES),
                locked=pty.ask(fd, pty.TIOCGLCKTRMIOS, pty.TERMIOS_BYTES),
                window=pty.ask(fd, pty.TIOCGWINSZ, pty.WINSIZE_BYTES),
                session=told[0]["session"] if told else 0,
                foreground=max(told[0]["tpgid"], 0) if told else 0,
                holders=self.holders(number),
                pair=self._pair(number) if number in self.ptys else None,
            )

    def _pair(self, number: tuple[int, int]) -> Pair:
        one = self.ptys[number]
        where = self._where(number)
        if not (one.master.is_settled and one.slave.is_settled):
            what = f"what was typed at /dev/pts/{one.number} has not been echoed yet"
            raise Refused(what, where=where, way_out=_FINISH_OUTPUT)
        if not (one.master.is_whole and one.slave.is_whole) or _is_odd(one):
            what = f"what waits in /dev/pts/{one.number} cannot be made again"
            raise Refused(what, where=where, way_out="let the program read it, and try again")
        stat = os.stat(f"/dev/pts/{one.number}")
        return Pair(
            number=one.number,
            uid=stat.st_uid,
            gid=stat.st_gid,
            mode=stat.st_mode & 0o7777,
            is_locked=one.master.is_locked,
            hung_up=one.master.other_closed,
            packet_mode=one.master.packet_mode,
            exclusive=[one.master.exclusive, one.slave.exclusive],
            stopped=one.slave.stopped,
            literal_next=one.slave.is_literal_next,
            input=[Piece(data=data, ends=ends) for data, ends in one.slave.pieces],
            unseen=one.slave.flip,
            output=b"".join(data for data, _ in one.master.pieces) + one.master.flip,
        )

    def any_of(self, number: tuple[int, int]) -> procfs.Descriptor | None:
        """A descriptor of a terminal, its master's if there is one."""
        alike = [d for d, n in self.numbers.items() if n == number]
        return min(alike, key=lambda d: d.target not in _MASTERS, default=None)


class _Opened:
    """A terminal under a number of livecr's own: of one that is open nowhere, by its path. Raises OSError."""

    def __init__(self, look: Look, number: tuple[int, int]) -> None:
        d = look.any_of(number)
        if d is None:
            self._fd = os.open(_path(number), os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        else:
            with Duplicate(d.pid, d.fd) as fd:
                self._fd = os.dup(fd)

    def __enter__(self) -> int:
        return self._fd

    def __exit__(self, *exc: object) -> None:
        os.close(self._fd)


def _is_odd(one: Pty) -> bool:
    """A line feed that ends no line: typed when lines did not count, and not read until they did again."""
    ended = [data for data, ends in one.slave.pieces if ends]
    return any(b"\n" in data[:-1] for data in ended) or (
        bool(ended) and any(b"\n" in data for data, ends in one.slave.pieces if not ends)
    )


def _number(d: procfs.Descriptor) -> tuple[int, int] | None:
    with suppress(OSError), Duplicate(d.pid, d.fd) as fd:
        pty.ask(fd, pty.TCGETS2, pty.TERMIOS2_BYTES)  # EIO: hung up
        return pty.number(fd)
    return None


def _timing(d: procfs.Descriptor) -> str:
    """What a read waits by, other than for one character or for a line."""
    with Duplicate(d.pid, d.fd) as fd:
        told = pty.ask(fd, pty.TCGETS2, pty.TERMIOS2_BYTES)
    if int.from_bytes(told[12:16], "little") & _ICANON or d.target in _MASTERS:
        return ""
    minimum, tenths = told[17 + _VMIN], told[17 + _VTIME]
    return ", ".join(["VTIME"] * bool(tenths) + [f"VMIN {minimum}"] * (minimum > 1))


def _slave(index: int) -> tuple[int, int]:
    return _SLAVE_MAJORS[0] + (index >> 20), index & 0xFFFFF


def _index(number: tuple[int, int]) -> int:
    return (number[0] - _SLAVE_MAJORS[0]) << 20 | number[1]


def _decoded(tty_nr: int) -> tuple[int, int] | None:
    return (os.major(tty_nr), os.minor(tty_nr)) if tty_nr else None


def _path(number: tuple[int, int]) -> str:
    """/dev/pts/N; of others what /sys says."""
    if number[0] in _SLAVE_MAJORS:
        return f"/dev/pts/{_index(number)}"
    return "/dev/" + os.path.basename(os.readlink(f"/sys/dev/char/{number[0]}:{number[1]}"))


def _held_by(pid: int) -> set[tuple[int, int]]:
    """The ptys that an outsider has open, either side, or is controlled by."""
    held: set[tuple[int, int]] = set()
    try:
        controlling = _decoded(procfs.stat(pid)["tty_nr"])
        held |= {controlling} if controlling else set()
        for fd in os.listdir(procfs.path(pid, "fd")):
            target = procfs.link(pid, f"fd/{fd}")
            if target.startswith("/dev/pts/") and target[9:].isdigit():
                held.add(_slave(int(target[9:])))
            elif target in _MASTERS:
                lines = procfs.read(pid, f"fdinfo/{fd}").decode().splitlines()
                held |= {_slave(int(line.split()[1])) for line in lines if line.startswith("tty-index:")}
    except OSError:
        pass  # it has ended, or the descriptor has been closed
    return held
