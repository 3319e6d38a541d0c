/* ptrace from C: the calls that have structures or must be issued for a thousand tasks in a row. */
#include "declarations.inc"
#include "ptrace.h"

#include <errno.h>
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

long lcr_wait(int tid, int *status, int options)
{
    long result;
    do
        result = wait4(tid, status, __WALL | options, NULL);
    while (result < 0 && errno == EINTR);
    return result < 0 ? -errno : result;
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
