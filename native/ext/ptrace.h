/* struct user_regs_struct of <sys/user.h>, as PTRACE_GETREGS fills it, also for a 32-bit task. */
struct lcr_regs {
    uint64_t r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi;
    uint64_t orig_rax, rip, cs, eflags, rsp, ss, fs_base, gs_base, ds, es, fs, gs;
};

/* ptrace(2); the result, or -errno. data and addr as the request wants them. */
long lcr_ptrace(long request, int tid, uint64_t addr, uint64_t data);
/* PTRACE_GETREGSET / PTRACE_SETREGSET of one note type: bytes transferred, or -errno. */
long lcr_getregset(int tid, int type, void *buffer, size_t size);
long lcr_setregset(int tid, int type, const void *buffer, size_t size);
/* wait4(tid, &status, __WALL | options): the tid, 0 (WNOHANG and nothing to report) or -errno; -ESRCH for a leader
   that is dead and will not be reported before its other threads are waited for. */
long lcr_wait(int tid, int *status, int options);
/* PTRACE_SEIZE + PTRACE_INTERRUPT of `count` tasks, then a wait for each, timeout_ms at the most in all.
   status[i] is the wait status, 0 for a task that did not stop in time, or -errno where the task could not be
   seized or is gone. Returns how many are stopped. */
int lcr_freeze(const int *tids, int count, long options, int timeout_ms, int *status);
/* any system call of livecr itself that Python has no wrapper for: result or -errno. */
long lcr_syscall(long nr, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f);
/* process_vm_readv / process_vm_writev of one range: bytes, or -errno. */
long lcr_vm_read(int pid, uint64_t address, void *buffer, size_t size);
long lcr_vm_write(int pid, uint64_t address, const void *buffer, size_t size);
