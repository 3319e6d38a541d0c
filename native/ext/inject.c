/* System calls in a stopped task, driven by ptrace: set registers, follow the call from entry to exit.
   Every stop used is a syscall stop or PTRACE_EVENT_STOP, never a SIGTRAP: a tracee that is in one of these
   when its tracer dies just goes on. */
#include "declarations.inc"
#include "ptrace.h"
#include "inject.h"

#include <errno.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

#define SYSCALL_STOP (SIGTRAP | 0x80)
#define EVENT_STOP 128

static void prepare(struct lcr_regs *regs, const struct lcr_regs *base, uint64_t entry, const struct lcr_call *call)
{
    *regs = *base;
    regs->rip = entry;
    regs->rax = (uint64_t)call->nr;
    regs->orig_rax = (uint64_t)-1; /* nothing is to be restarted on resume */
    if (call->ia32) { /* arch/x86/entry/entry_64_compat.S; from 64-bit code too the kernel then takes it for one */
        regs->rbx = call->args[0];
        regs->rcx = call->args[1];
        regs->rdx = call->args[2];
        regs->rsi = call->args[3];
        regs->rdi = call->args[4];
        regs->rbp = call->args[5];
        return;
    }
    regs->rdi = call->args[0];
    regs->rsi = call->args[1];
    regs->rdx = call->args[2];
    regs->r10 = call->args[3];
    regs->r8 = call->args[4];
    regs->r9 = call->args[5];
}

static long set_registers(int tid, const struct lcr_regs *regs)
{
    return ptrace(PTRACE_SETREGS, tid, NULL, regs) < 0 ? -errno : 0;
}

/* What to do with a signal-delivery stop on the way: the signal to go on with. SIGSTOP, which nobody can block, is
   let through: the kernel then knows that the process is stopped, lets a tracer move the task nevertheless, and
   stops it for good when the tracer detaches or dies, unless a SIGCONT came meanwhile. Others are held back. */
static long pass_on(int status, uint64_t *deferred)
{
    int signal = WSTOPSIG(status);
    if (status >> 16 != 0 || signal == SYSCALL_STOP)
        return 0;
    if (signal == SIGSTOP)
        return SIGSTOP;
    if (deferred)
        *deferred |= 1ULL << (signal - 1);
    return 0;
}

/* Resume by `request` (PTRACE_SYSCALL, PTRACE_CONT) with `signal` (0: none) until the stop for `wanted`. */
static long to_stop(int tid, enum __ptrace_request request, int wanted, long signal, uint64_t *deferred)
{
    for (;;) {
        int status;
        if (ptrace(request, tid, NULL, signal) < 0)
            return -errno;
        long result = lcr_wait(tid, &status, 0);
        if (result < 0)
            return result;
        if (!WIFSTOPPED(status))
            return -ESRCH;
        if (status >> 16 == 0 && WSTOPSIG(status) == wanted)
            return 0;
        signal = pass_on(status, deferred);
    }
}

static long to_syscall_stop(int tid, long signal, uint64_t *deferred)
{
    return to_stop(tid, PTRACE_SYSCALL, SYSCALL_STOP, signal, deferred);
}

/* Until the SIGTRAP of int3. */
static long to_trap(int tid, uint64_t *deferred)
{
    return to_stop(tid, PTRACE_CONT, SIGTRAP, 0, deferred);
}

static long finish(int tid, struct lcr_call *call)
{
    struct lcr_regs regs;
    if (ptrace(PTRACE_GETREGS, tid, NULL, &regs) < 0)
        return -errno;
    call->result = call->ia32 ? (int32_t)regs.rax : (int64_t)regs.rax;
    return 0;
}

long lcr_inject(int tid, uint64_t entry, const struct lcr_regs *base, struct lcr_call *calls, size_t count,
                uint64_t *deferred)
{
    for (size_t i = 0; i < count; i++) {
        struct lcr_regs regs;
        for (int a = 0; a < 6; a++)
            if (calls[i].origin[a] >= 0)
                calls[i].args[a] = (uint64_t)calls[calls[i].origin[a]].result;
        prepare(&regs, base, entry, &calls[i]);
        long result = set_registers(tid, &regs);
        for (int stop = 0; stop < 2 && result == 0; stop++) /* entry, exit */
            result = to_syscall_stop(tid, 0, deferred);
        if (result == 0)
            result = finish(tid, &calls[i]);
        if (result < 0)
            return result;
        if (calls[i].must && calls[i].result < 0 && calls[i].result >= -4095)
            return (long)i + 1;
    }
    return (long)count;
}

long lcr_batch(int tid, uint64_t runner, uint64_t table, const struct lcr_regs *base, struct lcr_call *calls,
               size_t count, uint64_t *deferred)
{
    struct lcr_regs regs = *base;
    size_t size = count * sizeof *calls;
    if (lcr_vm_write(tid, table, calls, size) != (long)size)
        return -EFAULT;
    regs.rip = runner;
    regs.rbx = table;
    regs.rbp = count;
    regs.orig_rax = (uint64_t)-1;
    long result = set_registers(tid, &regs);
    if (result == 0)
        result = to_trap(tid, deferred);
    if (result < 0)
        return result;
    if (ptrace(PTRACE_GETREGS, tid, NULL, &regs) < 0)
        return -errno;
    if (lcr_vm_read(tid, table, calls, size) != (long)size)
        return -EFAULT;
    return (long)(count - regs.rbp);
}

long lcr_run_each(const int *tids, size_t count, uint64_t entry, const struct lcr_regs *base, uint64_t argument,
                  uint64_t stacks, uint64_t stack_bytes)
{
    struct lcr_regs regs = *base;
    regs.rip = entry;
    regs.rdi = argument;
    regs.orig_rax = (uint64_t)-1;
    for (size_t i = 0; i < count; i++) {
        regs.rsp = stacks + (i + 1) * stack_bytes - 8; /* as after a call instruction */
        long result = set_registers(tids[i], &regs);
        if (result < 0)
            return result;
        if (ptrace(PTRACE_CONT, tids[i], NULL, NULL) < 0)
            return -errno;
    }
    for (size_t i = 0; i < count; i++) {
        int status;
        long result = lcr_wait(tids[i], &status, 0);
        if (result < 0)
            return result;
        if (!WIFSTOPPED(status))
            return -ESRCH;
        if ((status >> 16 != 0 || WSTOPSIG(status) != SIGTRAP) && (result = to_trap(tids[i], NULL)) < 0)
            return result;
    }
    return 0;
}

long lcr_interrupted_call(int tid, uint64_t entry, const struct lcr_regs *base, struct lcr_call *call,
                          uint64_t *deferred)
{
    struct lcr_regs regs;
    prepare(&regs, base, entry, call);
    long result = set_registers(tid, &regs);
    if (result == 0)
        result = to_syscall_stop(tid, 0, deferred);
    if (result < 0)
        return result;
    if (ptrace(PTRACE_INTERRUPT, tid, NULL, NULL) < 0)
        return -errno;
    for (long signal = 0;;) {
        int status;
        if (ptrace(PTRACE_CONT, tid, NULL, signal) < 0)
            return -errno;
        if ((result = lcr_wait(tid, &status, 0)) < 0)
            return result;
        if (!WIFSTOPPED(status))
            return -ESRCH;
        if (status >> 16 == EVENT_STOP)
            return finish(tid, call);
        signal = pass_on(status, deferred);
    }
}

long lcr_inject_exit(int tid, uint64_t entry, const struct lcr_regs *base, struct lcr_call *call)
{
    struct lcr_regs regs;
    int status;
    prepare(&regs, base, entry, call);
    long result = set_registers(tid, &regs);
    if (result < 0)
        return result;
    if (ptrace(PTRACE_CONT, tid, NULL, NULL) < 0)
        return -errno;
    while ((result = lcr_wait(tid, &status, 0)) > 0 && WIFSTOPPED(status)) {
        long signal = status >> 16 == 0 && WSTOPSIG(status) != SYSCALL_STOP ? WSTOPSIG(status) : 0;
        ptrace(PTRACE_CONT, tid, NULL, signal);
    }
    return result < 0 ? result : status;
}
