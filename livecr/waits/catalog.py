"""Every system call of x86-64 in which a task can be blocked: one row each, to be read beside its man page.

The restart codes are those of the kernel's sources (named per group); a row with EINTR is ended for good by
a mere freeze. A call that is not here is refused by name, never guessed. Used by classify and deadlines. A
new blocking call is a new row.
"""

from __future__ import annotations

from struct import Struct

from livecr.kernel.clock import MONOTONIC, REALTIME
from livecr.waits.restart import (
    EINTR,
    ERESTART_RESTARTBLOCK,
    ERESTARTNOHAND,
    ERESTARTNOINTR,
    ERESTARTSYS,
    how,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    *("ABSOLUTE", "ABS_IF_FLAG", "FUTEX_OP", "GETEVENTS_ARG", "LEFT", "LEFT_BY_STRUCT", "LEFT_TIMEVAL"),
    *("MILLISECONDS", "NONE", "RELATIVE"),
    *("ENTER_ABS_TIMER", "ENTER_EXT_ARG", "ENTER_EXT_ARG_REG", "ENTER_GETEVENTS", "IO_URING_ENTER"),
    *(
        "ARG_HERE",
        "BY_POINTER",
        "BY_STRUCT",
        "BY_VALUE",
        "CATALOG",
        "DONE",
        "FUTEX_COMMANDS",
        "LEFT_HERE",
        "REENTERED",
        "REENTERED_UNTIMED",
        "RESTART_FUNCTIONS",
        "SO_RCVTIMEO",
        "SO_SNDTIMEO",
        "TEMPORARY_MASKS",
        "TIME32",
        "TIME64",
        "TIMESPEC",
        "TIMED_OUT",
        "TIMED_OUT_ELSE",
        "Call",
        "call_name",
        "key",
    ),
]

# How a timeout is encoded.
NONE = ""
RELATIVE = "relative struct timespec"
ABSOLUTE = "absolute struct timespec"
ABS_IF_FLAG = "struct timespec, absolute if flags has TIMER_ABSTIME"
FUTEX_OP = "struct timespec, relative or absolute as the futex operation has it"
MILLISECONDS = "int, milliseconds, negative for none"
LEFT = "struct timespec, in which the kernel writes the time that is left when it leaves"
LEFT_TIMEVAL = "struct timeval, in which the kernel writes the time that is left when it leaves"
LEFT_BY_STRUCT = "the same, named by a struct sel_arg_struct"
GETEVENTS_ARG = "struct timespec named by a struct io_uring_getevents_arg, if flags has IORING_ENTER_EXT_ARG"

_TVP_AT = 16  # in the five words of a struct sel_arg_struct (fs/select.c): n, inp, outp, exp, tvp

# How the two words of a timeout lie in memory: seconds, and nanoseconds or microseconds.
TIMESPEC = Struct("<qq")  # struct timespec, struct timeval of x86-64
TIME32 = Struct("<ii")  # struct old_timespec32, struct old_timeval32 of 32-bit calls
TIME64 = Struct("<qI4x")  # struct __kernel_timespec of 32-bit tasks, whose padding the kernel passes over

TIMER_ABSTIME = 1
FUTEX_PRIVATE_FLAG = 128
FUTEX_CLOCK_REALTIME = 256
FUTEX_FLAGS = FUTEX_PRIVATE_FLAG | FUTEX_CLOCK_REALTIME

#: futex(2) operations that wait: number -> (absolute, clock; None where FUTEX_CLOCK_REALTIME tells).
FUTEX_COMMANDS: dict[int, tuple[bool, int | None]] = {
    0:  (False, MONOTONIC),  # FUTEX_WAIT
    6:  (True,  REALTIME),   # FUTEX_LOCK_PI
    9:  (True,  None),       # FUTEX_WAIT_BITSET
    11: (True,  None),       # FUTEX_WAIT_REQUEUE_PI
    13: (True,  None),       # FUTEX_LOCK_PI2
}  # fmt: skip

# io_uring_enter(2), flags: what argp is, and how the timeout counts.
IO_URING_ENTER = 426
ENTER_GETEVENTS = 1 << 0
ENTER_EXT_ARG = 1 << 3
ENTER_ABS_TIMER = 1 << 5
ENTER_EXT_ARG_REG = 1 << 6

# Socket options that turn the restart code into EINTR when set (net/core/sock.h, sock_intr_errno).
SO_RCVTIMEO = 20
SO_SNDTIMEO = 21

_SYS = (ERESTARTSYS,)
_NOINTR = (ERESTARTNOINTR,)
_NOHAND = (ERESTARTNOHAND,)
_BLOCK = (ERESTART_RESTARTBLOCK,)
_EINTR = (EINTR,)
_SLEEP = (ERESTART_RESTARTBLOCK, ERESTARTNOHAND)  # relative, absolute
_FUTEX = (ERESTART_RESTARTBLOCK, ERESTARTSYS, ERESTARTNOINTR)  # with a timeout, without, PI


def key(number: int, part: int = 0) -> int:
    """What the row of a call is found by."""
    return number | part << 16


class Call:
    """One blocking system call.

    ``codes``: the restart codes it may leave, likeliest first. ``arguments``: their names; in the table the
    timeout is marked ``*`` and the clock that it is on ``@``. ``timeout``: the index of the timeout, None if
    there is none, and ``encoding`` its form. ``clock``: its clock, unless the argument at index ``clock_at``
    has it. ``socket_option``: makes it end with EINTR when set on its descriptor (argument 0), 0 for none.
    ``timespec``: how its timeout (and rmtp) lies in memory. ``part``: of a call that stands for many, by its
    argument 0, which of them.
    """

    __slots__ = (
        "arguments",
        "clock",
        "clock_at",
        "codes",
        "encoding",
        "name",
        "number",
        "part",
        "socket_option",
        "timeout",
        "timespec",
    )

    def __init__(
        self,
        number: int,
        name: str,
        codes: tuple[int, ...],
        encoding: str,
        arguments: str,
        socket_option: int = 0,
        clock: int = MONOTONIC,
        timespec: Struct = TIMESPEC,
        part: int = 0,
    ) -> None:
        words = arguments.split()
        self.number = number
        self.name = name
        self.codes = codes
        self.encoding = encoding
        self.arguments = tuple(word.lstrip("*@") for word in words)
        self.timeout = next((i for i, word in enumerate(words) if word[0] == "*"), None)
        self.clock_at = next((i for i, word in enumerate(words) if word[0] == "@"), None)
        self.clock = clock
        self.socket_option = socket_option
        self.timespec = timespec
        self.part = part

    @property
    def key(self) -> int:
        """What its row is found by: its number, and which part of it this is."""
        return key(self.number, self.part)

    @property
    def how(self) -> str:
        """ "redo", "rearm" or "eintr", as the likeliest of its codes has it."""
        return how(self.codes[0])

    def clock_of(self, arguments: tuple[int, ...] | list[int]) -> int:
        """The clock id that its timeout is on (for futex: see deadlines, the operation tells)."""
        if self.clock_at is None:
            return self.clock
        value = arguments[self.clock_at] & 0xFFFFFFFF
        return value - (1 << 32) if value >> 31 else value

    def timeout_at(
        self, arguments: tuple[int, ...] | list[int], read_memory: Callable[[int, int], bytes]
    ) -> int:
        """The address of its timeout, 0 for none. Raises Failed if that cannot be read."""
        value = arguments[self.timeout] if self.timeout is not None else 0
        if self.encoding == LEFT_BY_STRUCT:
            return int.from_bytes(read_memory(value + _TVP_AT, 4), "little")
        return value

    def is_absolute(self, arguments: tuple[int, ...] | list[int]) -> bool:
        """Whether its timeout is a point in time."""
        if self.encoding == FUTEX_OP:
            return FUTEX_COMMANDS.get(arguments[1] & ~FUTEX_FLAGS, (False, None))[0]
        return self.encoding == ABSOLUTE or (
            (self.encoding == ABS_IF_FLAG and bool(arguments[1] & TIMER_ABSTIME))
            or (self.encoding == GETEVENTS_ARG and bool(arguments[3] & ENTER_ABS_TIMER))
        )


_ROWS = (
    # number  name               codes    timeout       arguments                   option that makes it EINTR
    # -- sleeping: kernel/time/hrtimer.c, posix-timers.c, posix-cpu-timers.c, alarmtimer.c
    Call(35,  "nanosleep",       _BLOCK,  RELATIVE,     "*rqtp rmtp"),
    Call(230, "clock_nanosleep", _SLEEP,  ABS_IF_FLAG,  "@clockid flags *rqtp rmtp"),
    # -- futexes: kernel/futex/waitwake.c, pi.c, syscalls.c (-516 with a timeout, -512 without, -513 for PI)
    Call(202, "futex",           _FUTEX,  FUTEX_OP,     "uaddr op val *utime uaddr2 val3"),
    Call(449, "futex_waitv",     _SYS,    ABSOLUTE,     "waiters nr_futexes flags *timeout @clockid"),
    Call(455, "futex_wait",      _SYS,    ABSOLUTE,     "uaddr val mask flags *timeout @clockid"),
    # -- waiting for descriptors: fs/select.c, fs/eventpoll.c
    Call(7,   "poll",            _BLOCK,  MILLISECONDS, "ufds nfds *timeout"),
    Call(271, "ppoll",           _NOHAND, LEFT,         "ufds nfds *tsp sigmask size"),
    Call(23,  "select",          _NOHAND, LEFT_TIMEVAL, "n inp outp exp *tvp"),
    Call(270, "pselect6",        _NOHAND, LEFT,         "n inp outp exp *tsp sig"),
    Call(232, "epoll_wait",      _EINTR,  MILLISECONDS, "epfd events maxevents *timeout"),
    Call(281, "epoll_pwait",     _EINTR,  MILLISECONDS, "epfd events maxevents *timeout sigmask size"),
    Call(441, "epoll_pwait2",    _EINTR,  RELATIVE,     "epfd events maxevents *timeout sigmask size"),
    # -- signals and children: kernel/signal.c, kernel/exit.c, kernel/fork.c
    Call(34,  "pause",           _NOHAND, NONE,         ""),
    Call(130, "rt_sigsuspend",   _NOHAND, NONE,         "set size"),
    Call(128, "rt_sigtimedwait", _EINTR,  RELATIVE,     "set info *timeout size"),
    Call(61,  "wait4",           _SYS,    NONE,         "upid stat_addr options ru"),
    Call(247, "waitid",          _SYS,    NONE,         "which upid infop options ru"),
    Call(56,  "clone",           _NOINTR, NONE,         "flags newsp parent_tid child_tid tls"),
    Call(57,  "fork",            _NOINTR, NONE,         ""),
    Call(58,  "vfork",           _NOINTR, NONE,         ""),
    Call(435, "clone3",          _NOINTR, NONE,         "uargs size"),
    # -- reading and writing: fs/read_write.c, fs/pipe.c, net/socket.c, drivers/tty/n_tty.c
    Call(0,   "read",            _SYS,    NONE,         "fd buf count", SO_RCVTIMEO),
    Call(1,   "write",           _SYS,    NONE,         "fd buf count", SO_SNDTIMEO),
    Call(17,  "pread64",         _SYS,    NONE,         "fd buf count pos"),
    Call(18,  "pwrite64",        _SYS,    NONE,         "fd buf count pos"),
    Call(19,  "readv",           _SYS,    NONE,         "fd vec vlen", SO_RCVTIMEO),
    Call(20,  "writev",          _SYS,    NONE,         "fd vec vlen", SO_SNDTIMEO),
    Call(295, "preadv",          _SYS,    NONE,         "fd vec vlen pos_l pos_h"),
    Call(296, "pwritev",         _SYS,    NONE,         "fd vec vlen pos_l pos_h"),
    Call(327, "preadv2",         _SYS,    NONE,         "fd vec vlen pos_l pos_h flags", SO_RCVTIMEO),
    Call(328, "pwritev2",        _SYS,    NONE,         "fd vec vlen pos_l pos_h flags", SO_SNDTIMEO),
    Call(40,  "sendfile",        _SYS,    NONE,         "out_fd in_fd offset count", SO_SNDTIMEO),
    Call(275, "splice",          _SYS,    NONE,         "fd_in off_in fd_out off_out len flags", SO_RCVTIMEO),
    Call(276, "tee",             _SYS,    NONE,         "fdin fdout len flags"),
    Call(278, "vmsplice",        _SYS,    NONE,         "fd uiov nr_segs flags"),
    Call(326, "copy_file_range", _SYS,    NONE,         "fd_in off_in fd_out off_out len flags"),
    Call(16,  "ioctl",           _SYS,    NONE,         "fd cmd arg"),
    Call(318, "getrandom",       _SYS,    NONE,         "ubuf len flags"),
    # -- sockets: net/socket.c, and each protocol's wait loop
    Call(42,  "connect",         _SYS,    NONE,         "fd addr addrlen", SO_SNDTIMEO),
    Call(43,  "accept",          _SYS,    NONE,         "fd addr addrlen", SO_RCVTIMEO),
    Call(288, "accept4",         _SYS,    NONE,         "fd addr addrlen flags", SO_RCVTIMEO),
    Call(44,  "sendto",          _SYS,    NONE,         "fd buf len flags addr addrlen", SO_SNDTIMEO),
    Call(45,  "recvfrom",        _SYS,    NONE,         "fd buf len flags addr addrlen", SO_RCVTIMEO),
    Call(46,  "sendmsg",         _SYS,    NONE,         "fd msg flags", SO_SNDTIMEO),
    Call(47,  "recvmsg",         _SYS,    NONE,         "fd msg flags", SO_RCVTIMEO),
    Call(299, "recvmmsg",        _SYS,    NONE,         "fd mmsg vlen flags timeout", SO_RCVTIMEO),
    Call(307, "sendmmsg",        _SYS,    NONE,         "fd mmsg vlen flags", SO_SNDTIMEO),
    # -- opening (a FIFO waits for its other end), locking, flushing: fs/pipe.c, locks.c, sync.c
    Call(2,   "open",            _SYS,    NONE,         "filename flags mode"),
    Call(85,  "creat",           _SYS,    NONE,         "pathname mode"),
    Call(257, "openat",          _SYS,    NONE,         "dfd filename flags mode"),
    Call(437, "openat2",         _SYS,    NONE,         "dfd filename how usize"),
    Call(73,  "flock",           _SYS,    NONE,         "fd cmd"),
    Call(72,  "fcntl",           _SYS,    NONE,         "fd cmd arg"),
    Call(26,  "msync",           _SYS,    NONE,         "start len flags"),
    Call(74,  "fsync",           _SYS,    NONE,         "fd"),
    Call(75,  "fdatasync",       _SYS,    NONE,         "fd"),
    Call(162, "sync",            _SYS,    NONE,         ""),
    Call(277, "sync_file_range", _SYS,    NONE,         "fd offset nbytes flags"),
    Call(306, "syncfs",          _SYS,    NONE,         "fd"),
    Call(76,  "truncate",        _SYS,    NONE,         "path length"),
    Call(77,  "ftruncate",       _SYS,    NONE,         "fd length"),
    Call(285, "fallocate",       _SYS,    NONE,         "fd mode offset len"),
    # -- System V and POSIX message queues and semaphores: ipc/msg.c, ipc/mqueue.c, ipc/sem.c
    Call(69,  "msgsnd",          _NOHAND, NONE,         "msqid msgp msgsz msgflg"),
    Call(70,  "msgrcv",          _NOHAND, NONE,         "msqid msgp msgsz msgtyp msgflg"),
    Call(242, "mq_timedsend",    _SYS,    ABSOLUTE,     "mqdes msg len prio *abs_timeout", clock=REALTIME),
    Call(243, "mq_timedreceive", _SYS,    ABSOLUTE,     "mqdes msg len prio *abs_timeout", clock=REALTIME),
    Call(65,  "semop",           _EINTR,  NONE,         "semid tsops nsops"),
    Call(220, "semtimedop",      _EINTR,  RELATIVE,     "semid tsops nsops *timeout"),
    # -- asynchronous input and output: fs/aio.c, io_uring/io_uring.c
    Call(208, "io_getevents",    _EINTR,  RELATIVE,     "ctx_id min_nr nr events *timeout"),
    Call(333, "io_pgetevents",   _NOHAND, RELATIVE,     "ctx_id min_nr nr events *timeout usig"),
    Call(426, "io_uring_enter",  _EINTR,  GETEVENTS_ARG, "fd to_submit min_complete flags *argp argsz"),
)  # fmt: skip

#: Call number -> its row.
CATALOG = {row.number: row for row in _ROWS}

#: restart_block.fn -> (what it goes on with, the calls it may stand for).
RESTART_FUNCTIONS: dict[str, tuple[str, tuple[int, ...]]] = {
    # function                         kind          calls
    "hrtimer_nanosleep_restart":      ("nanosleep",  (230, 35)),
    "do_restart_poll":                ("poll",       (7,)),
    "futex_wait_restart":             ("futex",      (202,)),
    "posix_cpu_nsleep_restart":       ("cpu",        (230,)),
    "alarm_timer_nsleep_restart":     ("alarm",      (230,)),
    "do_no_restart_syscall":          ("",           ()),
}  # fmt: skip


#: In REENTERED: here goes the address of a struct timespec with the time that is left, or that of a struct
#: io_uring_getevents_arg that names it.
LEFT_HERE, ARG_HERE = -1, -2

#: Calls that a freeze ends with EINTR, and how each is made again when it has a timeout: the call, and its
#: arguments (by index) that differ. Milliseconds are too coarse, so epoll_pwait2 stands in for its elders.
#: io_pgetevents ends with ERESTARTNOHAND, but would then wait for all of its timeout again.
REENTERED: dict[int, tuple[int, dict[int, int]]] = {
    # program's    made again     differs
    232:          (441,           {3: LEFT_HERE, 4: 0, 5: 8}),  # epoll_wait: no signal mask
    281:          (441,           {3: LEFT_HERE}),              # epoll_pwait
    441:          (441,           {3: LEFT_HERE}),              # epoll_pwait2
    128:          (128,           {2: LEFT_HERE}),              # rt_sigtimedwait
    220:          (220,           {3: LEFT_HERE}),              # semtimedop
    208:          (208,           {4: LEFT_HERE}),              # io_getevents
    333:          (333,           {4: LEFT_HERE}),              # io_pgetevents
    426:          (426,           {4: ARG_HERE, 5: 24}),        # io_uring_enter
}  # fmt: skip

#: The same, without a timeout: made again as they are.
REENTERED_UNTIMED = (65, *REENTERED)

#: What a call returns when a timeout of the socket's own is over: -EAGAIN, but for these (af_inet.c).
TIMED_OUT = -11
TIMED_OUT_ELSE = {42: -115}  # connect: -EINPROGRESS

#: Calls that tell how much they have done when they are interrupted, and not that they were: by how much each
#: argument (by index) differs, for each unit that was done, when the rest is asked for.
DONE: dict[int, dict[int, int]] = {
    208: {1: -1, 2: -1, 3: 32},  # io_getevents: min_nr, nr, and events (struct io_event)
    333: {1: -1, 2: -1, 3: 32},  # io_pgetevents
    426: {1: -1},                # io_uring_enter: to_submit; it only waits if it could submit all
}  # fmt: skip


#: Calls that put another signal mask in place while they wait, by name, of either ABI: which argument has it,
#: and whether it is the mask, points to it, or to a struct that begins with such a pointer (kernel/signal.c;
#: fs/select.c, get_sigset_argpack; fs/aio.c).
BY_VALUE, BY_POINTER, BY_STRUCT = range(3)
TEMPORARY_MASKS = {
    # call                  argument    how
    "rt_sigsuspend":        ("set",      BY_POINTER),
    "sigsuspend":           ("mask",     BY_VALUE),
    "ppoll":                ("sigmask",  BY_POINTER),
    "ppoll_time64":         ("sigmask",  BY_POINTER),
    "pselect6":             ("sig",      BY_STRUCT),
    "pselect6_time64":      ("sig",      BY_STRUCT),
    "epoll_pwait":          ("sigmask",  BY_POINTER),
    "epoll_pwait2":         ("sigmask",  BY_POINTER),
    "io_pgetevents":        ("usig",     BY_STRUCT),
    "io_pgetevents_time64": ("usig",     BY_STRUCT),
}  # fmt: skip


def call_name(number: int) -> str:
    """The name of any system call, catalogued or not."""
    if number in CATALOG:
        return CATALOG[number].name
    from ptrace.syscall.names import SYSCALL_NAMES

    return str(SYSCALL_NAMES.get(number, f"system call {number}"))
