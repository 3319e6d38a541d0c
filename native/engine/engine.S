/* The engine: a few instructions written into a frozen task, through which livecr makes system calls in it.
 *
 * The tracer sets rip to `call_here` and the registers to a call, and follows it from entry stop to exit
 * stop. Nothing but ptrace holds the task there: should the tracer die, at any instant, the task falls through
 * into the way back, which unmaps the scratch memory, puts the signal mask back, loads the registers that
 * livecr wrote into the save area beforehand, and jumps to where the kernel itself would have resumed.
 * So there is no moment at which the task runs on borrowed registers without a way home.
 *
 * Relies on: a tracer's exit detaches its tracees, and a task in a syscall stop then goes on as if untraced
 * (ptrace(2), "Death of tracer"). The stack pointer is never changed, so a signal handler that runs on the way
 * finds the program's own stack. General registers only: the FPU state is never touched.
 *
 * With COMPAT: the engine of 32-bit tasks (livecr/target/compat.py). The same 64-bit code runs in them, since a tracer
 * may set cs; it lies below 4 GiB, so rip-relative addresses, stack and jump targets fit. What only a 32-bit call can do
 * (the kernel looks at TS_COMPAT) is made through `int $0x80`, and the way home is a far jump: save_rip holds a far
 * pointer, the offset in its low 4 bytes and the selector in the 2 above.
 *
 * The save area's order is known to livecr/target/engine.py (SAVE_AREA).
 */
        .text
        .globl engine
engine:
        .ascii "livecr:\1"              /* how a leftover of a killed livecr is known */
call_here:
        syscall
#ifdef COMPAT
        jmp     way_back
call_here_32:                           /* 4 bytes behind call_here (IA32_ENTRY) */
        int     $0x80
#endif

way_back:
        movq    scratch(%rip), %rdi
        testq   %rdi, %rdi
        jz      1f
        movq    scratch_bytes(%rip), %rsi
        movl    $11, %eax               /* munmap; no error if livecr had not mapped it yet */
        syscall
1:      movl    $14, %eax               /* rt_sigprocmask(SIG_SETMASK, mask, NULL, 8) */
        movl    $2, %edi
        leaq    mask(%rip), %rsi
        xorl    %edx, %edx
        movl    $8, %r10d
        syscall
        /* Flags only count for a task that was interrupted in its own code: a call does not keep them
           in a way that programs may rely on. They go through the stack, below the red zone. */
        cmpq    $0, flags_count(%rip)
        je      2f
        leaq    -136(%rsp), %rsp
        pushq   flags(%rip)
        popfq
        leaq    136(%rsp), %rsp
2:      movq    save_r15(%rip), %r15
        movq    save_r14(%rip), %r14
        movq    save_r13(%rip), %r13
        movq    save_r12(%rip), %r12
        movq    save_rbp(%rip), %rbp
        movq    save_rbx(%rip), %rbx
        movq    save_r11(%rip), %r11
        movq    save_r10(%rip), %r10
        movq    save_r9(%rip), %r9
        movq    save_r8(%rip), %r8
        movq    save_rax(%rip), %rax
        movq    save_rcx(%rip), %rcx
        movq    save_rdx(%rip), %rdx
        movq    save_rsi(%rip), %rsi
        movq    save_rdi(%rip), %rdi
#ifdef COMPAT
        ljmpl   *save_rip(%rip)
#else
        jmp     *save_rip(%rip)
#endif

        .balign 8
save_r15:       .quad 0
save_r14:       .quad 0
save_r13:       .quad 0
save_r12:       .quad 0
save_rbp:       .quad 0
save_rbx:       .quad 0
save_r11:       .quad 0
save_r10:       .quad 0
save_r9:        .quad 0
save_r8:        .quad 0
save_rax:       .quad 0
save_rcx:       .quad 0
save_rdx:       .quad 0
save_rsi:       .quad 0
save_rdi:       .quad 0
save_rip:       .quad 0
flags:          .quad 0
flags_count:    .quad 0
mask:           .quad 0
scratch:        .quad 0
scratch_bytes:  .quad 0
