struct lcr_regs;

/* One system call to be made in a traced task. args[i] is replaced by the result of an earlier call of the
   same batch where origin[i] >= 0. */
struct lcr_call {
    int64_t nr;
    uint64_t args[6];
    int16_t origin[6];
    int16_t must;       /* 0: any result will do; 1: an error (-4095..-1) ends the batch */
    int16_t ia32;       /* 1: a 32-bit call, in number and arguments; the instruction at `entry` is then `int $0x80` */
    int64_t result;
};

/* Make `count` calls in the stopped task `tid`, whose instruction at `entry` is `syscall`; `base` are the
   registers to start each from. deferred gets a bit (1 << signal-1) for each signal that came instead of a
   syscall stop and was held back; SIGSTOP is let through. Returns how many calls were made (a failed "must" is the last of them), or
   -errno if ptrace failed, -ESRCH if the task ended. */
long lcr_inject(int tid, uint64_t entry, const struct lcr_regs *base, struct lcr_call *calls, size_t count,
                uint64_t *deferred);

/* The same in a half-built process, by the batch runner (native/seed/batch.S) that stands at `runner` in it: one stop
   for the whole table, which is copied to `table` in it and back. Not for a task that has SIGTRAP blocked. */
long lcr_batch(int tid, uint64_t runner, uint64_t table, const struct lcr_regs *base, struct lcr_call *calls,
               size_t count, uint64_t *deferred);

/* Run the code at `entry` in several tasks of a half-built process at once: `argument` in rdi, each with a stack of
   `stack_bytes` of its own upwards from `stacks`; until each has come to an int3. 0 or -errno. */
long lcr_run_each(const int *tids, size_t count, uint64_t entry, const struct lcr_regs *base, uint64_t argument,
                  uint64_t stacks, uint64_t stack_bytes);

/* From a stop to the entry stop of `call`, then interrupted, so that the call leaves at once by its restart
   code; ends in PTRACE_EVENT_STOP. result: what the call returned. 0 or -errno. */
long lcr_interrupted_call(int tid, uint64_t entry, const struct lcr_regs *base, struct lcr_call *call,
                          uint64_t *deferred);

/* exit(2) in a traced task that is not the last of its process; waits until it is gone. 0 or -errno. */
long lcr_inject_exit(int tid, uint64_t entry, const struct lcr_regs *base, struct lcr_call *call);
