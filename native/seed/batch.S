/* The batch runner of a half-built process: makes the system calls in a table, one after the other, and stops.
 *
 * In: rbx the table (struct lcr_call, native/ext/inject.h), rbp how many calls. Out: a SIGTRAP stop with rbp = calls not
 * made; each made call has its result in the table. It ends by int3, which only a traced task survives; but a
 * half-built process dies with its tracer anyway (PTRACE_O_EXITKILL). A target is never made to run this.
 */
        .set CALL_BYTES, 80
        .set ARGS, 8
        .set ORIGIN, 56
        .set MUST, 68
        .set RESULT, 72

        .text
        .globl batch
batch:
        movq    %rbx, %r12
next:   testq   %rbp, %rbp
        jz      done
        xorl    %ecx, %ecx
arg:    movswq  ORIGIN(%rbx,%rcx,2), %rax       /* the result of an earlier call, or -1 */
        testq   %rax, %rax
        js      1f
        imulq   $CALL_BYTES, %rax, %rax
        movq    RESULT(%r12,%rax), %rax
        movq    %rax, ARGS(%rbx,%rcx,8)
1:      incl    %ecx
        cmpl    $6, %ecx
        jne     arg
        movq    ARGS(%rbx), %rdi
        movq    ARGS+8(%rbx), %rsi
        movq    ARGS+16(%rbx), %rdx
        movq    ARGS+24(%rbx), %r10
        movq    ARGS+32(%rbx), %r8
        movq    ARGS+40(%rbx), %r9
        movq    (%rbx), %rax
        syscall
        movq    %rax, RESULT(%rbx)
        decq    %rbp
        cmpw    $0, MUST(%rbx)
        je      2f
        cmpq    $-4095, %rax
        jae     done
2:      addq    $CALL_BYTES, %rbx
        jmp     next
done:   int3
        jmp     done
