"""The terminals of an image made anew: the loading half of ttys.

Pairs get their old number if it is free. A program that was at a terminal of others goes on at livecr's
own: in livecr's session if its own was led from outside, else at a pair whose master livecr holds (seat),
since a terminal has one session. Relies on pty(7), ioctl_tty(2). Called by descriptors and restore.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress

from livecr.errors import BadImage, Failed, Refused
from livecr.kernel import procfs, pty
from livecr.kernel.pidfd import duplicate
from livecr.kernel.reopen import open_as_before
from livecr.kinds import tty_queues
from livecr.kinds.tty_seat import Seat
from livecr.kinds.ttys import Pair, PtyMaster, Terminal, Tty
from livecr.target.program import Program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.target.spawn import Seed

__all__ = ["Made"]


class Made:
    """The terminals made anew in livecr, each with a slave held open until all is in place."""

    def __init__(self, terminals: list[Terminal], descriptions: list[object], at_terminal: bool) -> None:
        """``at_terminal``: whoever called restore will care for a Seat. Raises Refused."""
        self.warnings: list[str] = []
        self.seat: Seat | None = None
        self._terminals = terminals
        self._masters = {d.terminal: d for d in descriptions if isinstance(d, PtyMaster)}
        self._open_slaves = {d.terminal for d in descriptions if isinstance(d, Tty)}
        self._pairs: dict[int, int] = {}  # terminal -> master
        self._slaves: dict[int, int] = {}
        self._paths: dict[int, str] = {}
        try:
            for place, terminal in enumerate(terminals):
                if terminal.pair is not None:
                    self._make_pair(place, terminal.pair)
                else:
                    self._sit_down(place, terminal, at_terminal)
        except BaseException:
            self.close()
            raise

    # -- making ------------------------------------------------------------------------------------------

    def _make_pair(self, place: int, pair: Pair) -> None:
        master = self._masters.get(place)
        if master is None:
            raise BadImage("the master of a terminal is missing", where=f"terminal /dev/pts/{pair.number}")
        fd = _open_master(pair.number, master.path, master.flags)
        number = int.from_bytes(pty.ask(fd, pty.TIOCGPTN, 4), "little")
        if number != pair.number:
            what = f"the terminal /dev/pts/{pair.number} is /dev/pts/{number} now, since that number is taken"
            self.warnings.append(what)
        self._pairs[place] = fd
        self._paths[place] = f"/dev/pts/{number}"
        pty.tell(fd, pty.TIOCSPTLCK, _number(0))
        if pair.hung_up or place in self._open_slaves:
            self._slaves[place] = os.open(self._paths[place], os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)

    def _sit_down(self, place: int, terminal: Terminal, at_terminal: bool) -> None:
        """At livecr's own terminal, or at a pair of which livecr has the master."""
        where = f"terminal {terminal.path}"
        if terminal.holders and not at_terminal:
            raise Refused(
                "the program was started at a terminal, and works with it",
                where=where,
                way_out="run livecr restore in a terminal, without --detach and namespace: it stays there",
            )
        own = _own_terminal(where)
        relay = -1
        if terminal.holders and terminal.session in terminal.holders:
            relay = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
            number = int.from_bytes(pty.ask(relay, pty.TIOCGPTN, 4), "little")
            pty.tell(relay, pty.TIOCSPTLCK, _number(0))
            path = f"/dev/pts/{number}"
            pty.tell(relay, pty.TIOCSWINSZ, terminal.window)
            pty.tell(relay, pty.TCSETS2, terminal.termios)
        else:
            path = os.readlink(f"/proc/self/fd/{own}")
            if terminal.holders:
                _must_control(own, where)
        foreground = terminal.foreground if terminal.holders else 0
        self.seat = Seat(own, relay, foreground, terminal.termios)
        self._paths[place] = path
        self._slaves[place] = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)

    def load_master(self, record: PtyMaster) -> int:
        """A description of the master: there is one of each."""
        fd = self._pairs.get(record.terminal)
        if fd is None:
            raise BadImage("it is the master of no terminal", where=record.path)
        return os.dup(fd)

    def load(self, record: Tty) -> int | None:
        """A description of a terminal; None if a process has to open it by /dev/tty."""
        if record.terminal is None:
            return _hung_up(record)
        if record.path == "/dev/tty" and self._terminals[record.terminal].holders:
            return None
        return open_as_before(self._paths[record.terminal], record.flags | os.O_CLOEXEC | os.O_NOCTTY)

    def load_by_process(self, record: Tty, seeds: dict[int, Seed]) -> int:
        """One that was opened as /dev/tty, by a process that has it as such."""
        assert record.terminal is not None
        holder = next(pid for pid in self._terminals[record.terminal].holders if pid in seeds)
        seed = seeds[holder]
        opening = Program()
        opening.add("open", seed.put(b"/dev/tty\0"), record.flags | os.O_CLOEXEC, 0)
        (theirs,) = seed.run(opening)
        try:
            return duplicate(seed.process.pidfd, theirs)
        finally:
            closing = Program()
            closing.add("close", theirs)
            seed.run(closing)

    def fill(self) -> None:
        """Give every pair its settings and what waited in it, now that all of it is open."""
        for place, master in self._pairs.items():
            terminal = self._terminals[place]
            assert terminal.pair is not None
            os.chown(self._paths[place], terminal.pair.uid, terminal.pair.gid)
            os.chmod(self._paths[place], terminal.pair.mode)
            pty.tell(master, pty.TIOCSWINSZ, terminal.window)
            tty_queues.load(master, self._slaves.get(place, -1), terminal, terminal.pair)

    # -- sessions ----------------------------------------------------------------------------------------

    def begin_session(self, pid: int, seed: Seed) -> None:
        """Process ``pid`` has just begun a session: its children will inherit its terminal."""
        for place, terminal in enumerate(self._terminals):
            if terminal.session == pid and pid in terminal.holders:
                fd = self._slaves[place]
                theirs = seed.fetch([fd])[fd]
                program = Program()
                program.add("ioctl", theirs, pty.TIOCSCTTY, 0)
                seed.run(program)
                seed.drop_fetched()

    def settle(self, seeds: dict[int, Seed]) -> None:
        """All are born and in their groups: who has no terminal leaves it; each gets its foreground group."""
        for place, terminal in enumerate(self._terminals):
            rdev = os.stat(self._paths[place]).st_rdev
            for pid, seed in seeds.items():
                has_it = procfs.stat(seed.pid)["tty_nr"] == rdev
                if has_it and pid not in terminal.holders:
                    _leave_terminal(seed)
                elif pid in terminal.holders and not has_it:
                    raise Failed("its terminal does not control it again", where=f"process {pid}")
            leader = seeds.get(terminal.session)
            if leader is not None and terminal.foreground:
                fd = self._slaves[place]
                theirs = leader.fetch([fd])[fd]
                program = Program()
                program.add("ioctl", theirs, pty.TIOCSPGRP, leader.put(_number(terminal.foreground)))
                leader.run(program)
                leader.drop_fetched()

    def finish(self) -> None:
        """Last of all what would be in the way before."""
        for place, master in self._pairs.items():
            pair = self._terminals[place].pair
            assert pair is not None
            if pair.is_locked:
                pty.tell(master, pty.TIOCSPTLCK, _number(1))
            if pair.packet_mode:
                pty.tell(master, pty.TIOCPKT, _number(1))
            for fd, exclusive in zip((master, self._slaves.get(place, -1)), pair.exclusive, strict=True):
                if exclusive:
                    fcntl.ioctl(fd, pty.TIOCEXCL)

    def enter(self) -> None:
        """The program is about to run: before it reads, its terminal has to be its own."""
        if self.seat:
            self.seat.enter()

    def take_seat(self) -> Seat | None:
        """Hand it over."""
        seat, self.seat = self.seat, None
        return seat

    def close(self) -> None:
        """Close what was only held, and the seat if nobody took it."""
        for fd in [*self._pairs.values(), *self._slaves.values()]:
            os.close(fd)
        self._pairs.clear()
        self._slaves.clear()
        if self.seat:
            self.seat.leave()
            for fd in {self.seat.own, self.seat.relay} - {-1}:
                os.close(fd)
            self.seat = None


def _number(value: int) -> bytes:
    return value.to_bytes(4, "little")


def _open_master(number: int, path: str, flags: int) -> int:
    """A new pair with this number if it is free: the kernel gives the lowest that is. Raises Failed."""
    made: list[int] = []
    chosen = 0
    try:
        while True:
            made.append(open_as_before(os.path.realpath(path), flags | os.O_NOCTTY | os.O_CLOEXEC))
            got = int.from_bytes(pty.ask(made[-1], pty.TIOCGPTN, 4), "little")
            if got >= number:
                chosen = len(made) - 1 if got == number else 0
                break
    except OSError as error:
        if not made:
            raise Failed(f"no terminal can be made: {error.strerror}", where=path) from None
    for fd in made[:chosen] + made[chosen + 1 :]:
        os.close(fd)
    return made[chosen]


def _own_terminal(where: str) -> int:
    """A new descriptor of the terminal that livecr is at. Raises Refused if it is at none."""
    for fd in (0, 1, 2):
        with suppress(OSError):
            if os.isatty(fd):
                return os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    with suppress(OSError):
        return os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC)
    raise Refused(
        "the program was at a terminal, and livecr is at none",
        where=where,
        way_out="run livecr restore in a terminal, or give it one: script -c 'livecr restore IMAGE'",
    )


def _must_control(own: int, where: str) -> None:
    try:
        os.tcgetpgrp(own)
    except OSError:
        raise Refused(
            "the program needs a terminal that controls it, and livecr's own does not control livecr",
            where=where,
            way_out="run livecr restore from a shell in a terminal",
        ) from None


def _hung_up(record: Tty) -> int:
    """A slave whose master has gone."""
    old = record.path.removeprefix("/dev/pts/")
    master = _open_master(int(old) if old.isdecimal() else 0, "/dev/ptmx", os.O_RDWR)
    try:
        pty.tell(master, pty.TIOCSPTLCK, _number(0))
        number = int.from_bytes(pty.ask(master, pty.TIOCGPTN, 4), "little")
        return open_as_before(f"/dev/pts/{number}", record.flags | os.O_NOCTTY | os.O_CLOEXEC)
    finally:
        os.close(master)


def _leave_terminal(seed: Seed) -> None:
    program = Program()
    opened = program.add("open", seed.put(b"/dev/tty\0"), os.O_RDWR | os.O_CLOEXEC, 0)
    program.add("ioctl", opened, pty.TIOCNOTTY, 0)
    program.add("close", opened)
    seed.run(program)
