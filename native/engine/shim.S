/* The shim: makes one system call in the program's place and gives its registers back.
 *
 * A call that answers EINTR to a mere freeze is made again with the time that is left, for which an argument has to
 * differ from the program's own. But a system call leaves all registers but rax, rcx and r11 as they were, and
 * compilers rely on it. So it is made here: the task enters at `entry` with the arguments that differ, and leaves with
 * its own. It stands in unused bytes of the vDSO's last page; its data are only read. A signal handler that
 * interrupts the call returns here and goes the same way; one that jumps out of it leaves nothing behind.
 *
 * A call may have done a part of its work before the freeze: io_uring_enter has submitted, io_getevents has fetched some
 * events. `done` counts that, and is added to what the rest of it returns, in whose place an error counts as nothing.
 *
 * Where the words of data are, livecr/target/shim_forms.py knows.
 */
        .text
        .globl shim
shim:
        .ascii "livecr>\3"
entry:  syscall
        movl    done(%rip), %ecx
        jrcxz   1f                      /* touches no flag */
        testq   %rax, %rax
        jns     0f
        xorl    %eax, %eax
0:      addq    %rcx, %rax
1:      leaq    own(%rip), %rcx
        movq    (%rcx), %rdi
        movq    8(%rcx), %rsi
        movq    16(%rcx), %rdx
        movq    24(%rcx), %r10
        movq    32(%rcx), %r8
        movq    40(%rcx), %r9
        movq    48(%rcx), %rcx          /* as the program's own call would have left it */
        jmp     *%rcx
        .org 72                         /* so that the whole is a multiple of 16 bytes, as the slots must be */
own:    .quad 0, 0, 0, 0, 0, 0          /* rdi, rsi, rdx, r10, r8, r9 */
back:   .quad 0                         /* behind the program's own `syscall` */
number: .long 0                         /* of the call that the program made */
done:   .long 0                         /* what it had done of it before the freeze */
arg:    .quad 0, 0, 0                   /* struct io_uring_getevents_arg: sigmask, its size, the timespec's address */
timespec:
        .quad 0, 0                      /* what is left, for the call made here */
