/* ptrace from C: the calls that have structures or must be issued for a thousand tasks in a row. */
#include "declarations.inc"
#include "ptrace.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

long lcr_ptrace(long request, int tid, uint64_t addr, uint64_t data)
{
    long result = syscall(SYS_ptrace, request, tid, addr, data);
    return result < 0 ? -errno : result;
}

long lcr_getregset(int tid, int type, void *buffer, size_t size)
{
    struct iovec iov = {buffer, size};
    if (ptrace(PTRACE_GETREGSET, tid, (void *)(intptr_t)type, &iov) < 0)
        return -errno;
    return (long)iov.iov_len;
}

long lcr_setregset(int tid, int type, const void *buffer, size_t size)
{
    struct iovec iov = {(void *)(uintptr_t)buffer, size};
    if (ptrace(PTRACE_SETREGSET, tid, (void *)(intptr_t)type, &iov) < 0)
        return -errno;
    return (long)iov.iov_len;
}

static long wait_once(int tid, int *status, int options)
{
    long result;
    do
        result = wait4(tid, status, __WALL | options, NULL);
    while (result < 0 && errno == EINTR);
    return result < 0 ? -errno : result;
}

/* Whether a task is dead. The state in /proc/TID/stat comes behind the name, which may contain anything. */
static int is_dead(int tid)
{
    char path[32], line[512];
    const char *state;
    snprintf(path, sizeof(path), "/proc/%d/stat", tid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? -1 : read(fd, line, sizeof(line) - 1);
    if (fd >= 0)
        close(fd);
    if (got <= 0)
        return 1;
    line[got] = 0;
    state = strrchr(line, ')');
    return state && (state[2] == 'Z' || state[2] == 'X');
}

/* A plain wait for a thread group's leader would never end if the whole group was killed: its end is reported only
   when all its other threads are reaped, and those are tracees of ours too. So the wait is for anybody, without
   taking the report, and woken by somebody else it looks whether the task is dead. */
long lcr_wait(int tid, int *status, int options)
{
    struct timespec pause = {0, 50000};
    for (;;) {
        siginfo_t about = {.si_pid = 0};
        long result = wait_once(tid, status, WNOHANG);
        if (result != 0 || options & WNOHANG)
            return result;
        if (waitid(P_ALL, 0, &about, WEXITED | WSTOPPED | WNOWAIT | __WALL) < 0 && errno != EINTR)
            return -errno;
        if (about.si_pid == tid || about.si_pid == 0)
            continue;
        if (is_dead(tid)) {
            result = wait_once(tid, status, WNOHANG);
            return result != 0 ? result : -ESRCH;
        }
        nanosleep(&pause, NULL);
        if (pause.tv_nsec < 1000000)
            pause.tv_nsec *= 2;
    }
}

int lcr_freeze(const int *tids, int count, long options, int timeout_ms, int *status)
{
    struct timespec pause = {0, 20000};
    int waiting = 0, stopped = 0;
    for (int i = 0; i < count; i++) {
        status[i] = 0;
        if (ptrace(PTRACE_SEIZE, tids[i], NULL, (void *)options) < 0 ||
            ptrace(PTRACE_INTERRUPT, tids[i], NULL, NULL) < 0)
            status[i] = -errno;
        else
            waiting++;
    }
    /* A task in uninterruptible sleep does not stop at all, so nothing here may wait without an end. */
    for (long slept_us = 0; waiting && slept_us < timeout_ms * 1000L; slept_us += pause.tv_nsec / 1000) {
        int progress = 0;
        for (int i = 0; i < count; i++) {
            if (status[i] != 0)
                continue;
            long result = lcr_wait(tids[i], &status[i], WNOHANG);
            if (result == 0)
                continue;
            progress = 1;
            waiting--;
            if (result < 0)
                status[i] = (int)result;
            else if (WIFSTOPPED(status[i]))
                stopped++;
            else
                status[i] = -ESRCH; /* it has ended; exit status 0 would look like not having been heard of */
        }
        for (int i = 0; waiting && !progress && i < count; i++) {
            if (status[i] == 0 && is_dead(tids[i])) {
                /* Either just now, or it is a leader whose other threads were killed with it. */
                lcr_wait(tids[i], &status[i], WNOHANG);
                status[i] = -ESRCH;
                waiting--;
            }
        }
        if (waiting && !progress) {
            nanosleep(&pause, NULL);
            if (pause.tv_nsec < 1000000)
                pause.tv_nsec *= 2;
        }
    }
    return stopped;
}

long lcr_syscall(long nr, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f)
{
    long result = syscall(nr, a, b, c, d, e, f);
    return result < 0 ? -errno : result;
}

long lcr_vm_read(int pid, uint64_t address, void *buffer, size_t size)
{
    struct iovec here = {buffer, size}, there = {(void *)address, size};
    ssize_t result = process_vm_readv(pid, &here, 1, &there, 1, 0);
    return result < 0 ? -errno : result;
}

long lcr_vm_write(int pid, uint64_t address, const void *buffer, size_t size)
{
    struct iovec here = {(void *)(uintptr_t)buffer, size}, there = {(void *)address, size};
    ssize_t result = process_vm_writev(pid, &here, 1, &there, 1, 0);
    return result < 0 ? -errno : result;
}
