"""What this kernel offers: one probe for each thing that livecr relies on, tried for real, never by version.

A probe answers with a few words of detail, or raises Missing with the reason. It leaves nothing behind: what
cannot be undone is tried in a child that ends at once. Called by `livecr doctor`.
"""

from __future__ import annotations

import os
import signal

from livecr._native import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FEATURES", "Feature", "Finding", "Missing", "examine"]

# <asm/unistd_64.h>
_NR_ARCH_PRCTL, _NR_PRCTL, _NR_UNSHARE, _NR_KCMP, _NR_CLONE3, _NR_PIDFD_GETFD = 158, 157, 272, 312, 435, 438
_ARCH_MAP_VDSO_64 = 0x2003  # <asm/prctl.h>
# <linux/prctl.h>
_PR_SET_MM, _PR_SET_MM_MAP_SIZE = 35, 15
_PR_TIMER_CREATE_RESTORE_IDS, _RESTORE_IDS_GET = 77, 2
_PR_SET_VMA, _PR_SET_VMA_ANON_NAME = 0x53564D41, 0
_KCMP_FILE = 0
_CLONE_NEWTIME = 0x80
_CLONE_ARGS_WORDS, _EXIT_SIGNAL, _SET_TID, _SET_TID_SIZE = 11, 4, 8, 9  # struct clone_args, in words
# ptrace(2)
_PTRACE_SEIZE, _PTRACE_INTERRUPT, _PTRACE_GET_RSEQ_CONFIGURATION = 0x4206, 0x4207, 0x420F
_PTRACE_O_EXITKILL = 0x100000
_CAP_SYS_PTRACE, _CAP_SYS_ADMIN, _CAP_CHECKPOINT_RESTORE = 19, 21, 40
_YAMA_NO_ATTACH = "3"
_PAGE_BYTES = 4096
_EEXIST = 17
_TRIES = 16


class Missing(Exception):
    """The kernel, or the rights of this process, do not offer it; the text says why."""


class Feature:
    """``without``: what livecr does, or cannot do, where it is missing. ``essential``: nothing works then."""

    __slots__ = ("essential", "name", "probe", "without")

    def __init__(self, name: str, essential: bool, without: str, probe: Callable[[], str]) -> None:
        self.name = name
        self.essential = essential
        self.without = without
        self.probe = probe


class Finding:
    """A feature, whether it is there, and the probe's words."""

    __slots__ = ("available", "detail", "feature")

    def __init__(self, feature: Feature, available: bool, detail: str) -> None:
        self.feature = feature
        self.available = available
        self.detail = detail


def examine() -> list[Finding]:
    """Try everything, in the order of FEATURES."""
    found = []
    for feature in FEATURES:
        try:
            found.append(Finding(feature, True, feature.probe()))
        except Missing as reason:
            found.append(Finding(feature, False, str(reason)))
        except OSError as error:
            found.append(Finding(feature, False, _reason(error)))
    return found


def _reason(error: OSError) -> str:
    return f"{error.strerror} ({error.filename})" if error.filename else str(error.strerror)


def _call(number: int, *args: int) -> int:
    """A system call of our own; its result. Raises OSError."""
    result = int(lib.lcr_syscall(number, *args, *([0] * (6 - len(args)))))
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


def _address(what: object) -> int:
    return int(ffi.cast("uintptr_t", what))


def _in_child(trial: Callable[[], object]) -> None:
    """Make the trial in a child, which ends whatever comes. Raises OSError with the errno that it met."""
    child = os.fork()
    if child == 0:
        errno = 255
        try:
            trial()
            errno = 0
        except OSError as error:
            errno = error.errno or 255
        finally:
            os._exit(errno)
    errno = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if errno:
        raise OSError(errno, os.strerror(errno) if errno > 0 else f"ended by signal {-errno}")


# -- rights ------------------------------------------------------------------------------------------------


def _has_capability(number: int) -> bool:
    with open("/proc/self/status", encoding="ascii", errors="replace") as lines:
        effective = next(line.split()[1] for line in lines if line.startswith("CapEff:"))
    return bool(int(effective, 16) >> number & 1)


def _right_to_trace() -> str:
    if not _has_capability(_CAP_SYS_PTRACE):
        raise Missing("this process has no CAP_SYS_PTRACE: run livecr as root")
    try:
        with open("/proc/sys/kernel/yama/ptrace_scope", encoding="ascii") as file:
            scope = file.read().strip()
    except FileNotFoundError:
        return "CAP_SYS_PTRACE"
    if scope == _YAMA_NO_ATTACH:
        raise Missing("/proc/sys/kernel/yama/ptrace_scope is 3: nobody may trace until the next boot")
    return f"CAP_SYS_PTRACE, yama/ptrace_scope {scope}"


class _Traced:
    """A child of ours, seized and stopped; killed on exit."""

    def __enter__(self) -> int:
        self.pid = os.fork()
        if self.pid == 0:
            while True:
                signal.pause()
        for request, data in ((_PTRACE_SEIZE, _PTRACE_O_EXITKILL), (_PTRACE_INTERRUPT, 0)):
            result = lib.lcr_ptrace(request, self.pid, 0, data)
            if result < 0:
                self.__exit__()
                raise OSError(-result, os.strerror(-result))
        lib.lcr_wait(self.pid, ffi.new("int *"), 0)
        return self.pid

    def __exit__(self, *exception: object) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def _seize() -> str:
    with _Traced():
        return "stops a process"


def _rseq_configuration() -> str:
    with _Traced() as pid:
        buffer = ffi.new("char[24]")  # struct ptrace_rseq_configuration
        result = lib.lcr_ptrace(_PTRACE_GET_RSEQ_CONFIGURATION, pid, 24, _address(buffer))
        if result < 0:
            raise OSError(-result, os.strerror(-result))
    return "ptrace tells it"


def _map_files() -> str:
    mapping = os.listdir("/proc/self/map_files")[0]
    os.stat(f"/proc/self/map_files/{mapping}")
    return "its files can be opened"


# -- making a process again ----------------------------------------------------------------------------------


def _chosen_pid() -> str:
    """A child's number that has just become free, asked for again; another process may be quicker."""
    for _ in range(_TRIES):
        free = os.fork()
        if free == 0:
            os._exit(0)
        os.waitpid(free, 0)
        try:
            _clone_with_pid(free)
        except FileExistsError:
            continue
        has = _CAP_CHECKPOINT_RESTORE if _has_capability(_CAP_CHECKPOINT_RESTORE) else _CAP_SYS_ADMIN
        return f"clone3 makes it, by {'CAP_SYS_ADMIN' if has == _CAP_SYS_ADMIN else 'CAP_CHECKPOINT_RESTORE'}"
    raise Missing(f"{_TRIES} PIDs that were free were taken before they could be used")


def _clone_with_pid(pid: int) -> None:
    tid = ffi.new("int32_t *", pid)
    words = ffi.new("uint64_t[]", _CLONE_ARGS_WORDS)
    words[_EXIT_SIGNAL] = signal.SIGCHLD
    words[_SET_TID], words[_SET_TID_SIZE] = _address(tid), 1
    size = 8 * _CLONE_ARGS_WORDS
    # Not in a child of ours: without CLONE_VM, clone3 is a fork, and the new process ends here.
    made = lib.lcr_syscall(_NR_CLONE3, _address(words), size, 0, 0, 0, 0)
    if made == 0:
        os._exit(0)
    if made < 0:
        raise OSError(-made, os.strerror(-made))
    os.waitpid(made, 0)


def _time_namespace() -> str:
    os.stat("/proc/self/ns/time")

    def enter() -> None:
        _call(_NR_UNSHARE, _CLONE_NEWTIME)
        with open("/proc/self/timens_offsets", "w", encoding="ascii") as file:
            file.write("monotonic 1 0\nboottime 1 0\n")

    _in_child(enter)
    return "one can be made, and its clocks set"


def _map_vdso() -> str:
    def ask() -> None:
        # This process has its vDSO already, so a kernel that knows the request answers EEXIST.
        try:
            _call(_NR_ARCH_PRCTL, _ARCH_MAP_VDSO_64, 0)
        except FileExistsError:
            return

    _in_child(ask)
    return "arch_prctl answers"


def _set_mm() -> str:
    size = ffi.new("uint32_t *")
    _call(_NR_PRCTL, _PR_SET_MM, _PR_SET_MM_MAP_SIZE, _address(size), 0, 0)
    return "prctl answers"


def _timer_ids() -> str:
    _call(_NR_PRCTL, _PR_TIMER_CREATE_RESTORE_IDS, _RESTORE_IDS_GET, 0, 0, 0)
    return "can be chosen"


# -- descriptors and memory ----------------------------------------------------------------------------------


def _pidfd_getfd() -> str:
    pidfd = os.pidfd_open(os.getpid())
    try:
        os.close(_call(_NR_PIDFD_GETFD, pidfd, pidfd, 0))
    finally:
        os.close(pidfd)
    return "duplicates a descriptor"


def _kcmp() -> str:
    fd = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _call(_NR_KCMP, os.getpid(), os.getpid(), _KCMP_FILE, fd, fd)
    finally:
        os.close(fd)
    return "compares open file descriptions"


def _eventfd_mode() -> str:
    fd = os.eventfd(0, os.EFD_CLOEXEC)
    try:
        with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
            if "eventfd-semaphore" not in file.read():
                raise Missing("fdinfo does not say whether an eventfd is a semaphore")
    finally:
        os.close(fd)
    return "fdinfo tells it"


def _pagemap_scan() -> str:
    if not lib.lcr_has_pagemap_scan():
        raise Missing("/proc/PID/pagemap does not answer PAGEMAP_SCAN")
    return "/proc/PID/pagemap answers"


def _guard_scan() -> str:
    if not lib.lcr_has_guard_scan():
        raise Missing("PAGEMAP_SCAN does not tell guard pages")
    return "PAGEMAP_SCAN tells them"


def _ia32() -> str:
    if not lib.lcr_has_ia32():
        raise Missing("the kernel takes no 32-bit system calls (CONFIG_IA32_EMULATION, ia32_emulation=)")
    return "int $0x80"


def _names_of_memory() -> str:
    from mmap import mmap

    with mmap(-1, _PAGE_BYTES) as page:
        name = ffi.new("char[]", b"livecr")
        view = ffi.from_buffer(page)
        try:
            start = _address(view)
            _call(_NR_PRCTL, _PR_SET_VMA, _PR_SET_VMA_ANON_NAME, start, _PAGE_BYTES, _address(name))
        finally:
            ffi.release(view)
    return "can be given"


# -- deadlines -----------------------------------------------------------------------------------------------


def _btf() -> str:
    return f"/sys/kernel/btf/vmlinux, {os.stat('/sys/kernel/btf/vmlinux').st_size >> 10} KiB"


def _task_iterator() -> str:
    from livecr.kernel import bpf

    try:
        with bpf.TaskIterator.open(cache="") as iterator:
            if os.getpid() not in iterator.read(os.getpid()):
                raise Missing("the iterator does not find this process")
    except bpf.Unavailable as reason:
        raise Missing(str(reason)) from None
    return "restart blocks and sleepers can be read"


def _requests_in_flight() -> str:
    from livecr.kernel import async_io, bpf

    try:
        reader = async_io.Reader()
        try:
            if os.getpid() not in reader.read(os.getpid()).in_flight:
                raise Missing("the iterators do not find this process")
        finally:
            reader.close()
    except bpf.Unavailable as reason:
        raise Missing(str(reason)) from None
    return "BPF counts those of io_uring and AIO"


def _peek() -> str:
    from livecr.kernel import bpf, peek

    try:
        peek.probe()
    except bpf.Unavailable as reason:
        raise Missing(str(reason)) from None
    return "message queues and SEM_UNDO can be read"


def _timer_list() -> str:
    with open("/proc/timer_list", "rb") as file:
        file.read(1)
    return "/proc/timer_list can be read"


def _scheduler() -> str:
    with open("/proc/self/sched", encoding="ascii", errors="replace") as file:
        if "se.exec_start" not in file.read():
            raise Missing("/proc/PID/sched does not tell se.exec_start")
    return "/proc/PID/sched tells it"


_NOTHING = "livecr cannot work"
#: Everything, in the order of a checkpoint and then a restore: name, whether essential, what is done without.
FEATURES = (
    Feature("right to trace", True, f"{_NOTHING}: no process may be looked into", _right_to_trace),
    Feature("ptrace", True, f"{_NOTHING}: no process can be frozen", _seize),
    Feature(
        "rseq configuration", True, f"{_NOTHING}: restartable sequences would be lost", _rseq_configuration
    ),
    Feature("map_files", True, f"{_NOTHING}: mapped files cannot be told apart", _map_files),
    Feature("pidfd_getfd", True, f"{_NOTHING}: descriptors cannot be handed over", _pidfd_getfd),
    Feature("kcmp", True, f"{_NOTHING}: shared descriptions cannot be told", _kcmp),
    Feature("clone3 set_tid", True, "a checkpoint works, a restore does not: no chosen PID", _chosen_pid),
    Feature(
        "ARCH_MAP_VDSO_64", True, "a checkpoint works, a restore does not: no vDSO in its place", _map_vdso
    ),
    Feature("PR_SET_MM_MAP", True, "a checkpoint works, a restore does not: no memory layout", _set_mm),
    Feature("BTF", False, "as without BPF", _btf),
    Feature("BPF task iterator", False, "deadlines come from lesser sources, some inexact", _task_iterator),
    Feature(
        "requests in flight", False, "programs that use io_uring or AIO are refused", _requests_in_flight
    ),
    Feature(
        "BPF system call program",
        False,
        "unlinked message queues with messages, mq_notify and semaphores with SEM_UNDO are refused",
        _peek,
    ),
    Feature("timer list", False, "without BPF too, deadlines come from the scheduler", _timer_list),
    Feature(
        "scheduler times", False, "without BPF and timer list too, only upper bounds are known", _scheduler
    ),
    Feature("time namespaces", False, "waits are shifted, but CLOCK_MONOTONIC jumps", _time_namespace),
    Feature("PAGEMAP_SCAN", False, "pagemap is read entry by entry, which is slower", _pagemap_scan),
    Feature("guard page scan", False, "guard pages of MADV_GUARD_INSTALL are not seen", _guard_scan),
    Feature("timer ids", False, "timers are made until the right id comes up", _timer_ids),
    Feature("eventfd mode", False, "programs with an eventfd are refused", _eventfd_mode),
    Feature("32-bit programs", False, "there are none, and images of such are not restored", _ia32),
    Feature("names of memory", False, "names by PR_SET_VMA_ANON_NAME are not restored", _names_of_memory),
)
