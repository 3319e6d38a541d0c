/* The shim: makes one system call in the program's place and gives its registers back.
 *
 * A call that answers EINTR to a mere freeze is made again with the time that is left, for which an argument has to
 * differ from the program's own. But a system call leaves all registers but rax, rcx and r11 as they were, and
 * compilers rely on it. So it is made here: the task enters at `entry` with the arguments that differ, and leaves with
 * its own. It stands in unused bytes of the vDSO's last page; its data are only read. A signal handler that
 * interrupts the call returns here and goes the same way; one that jumps out of it leaves nothing behind.
 *
 * The words of data are known to livecr/target/shim.py (SHIM_DATA).
 */
        .text
        .globl shim
shim:
        .ascii "livecr>\1"
entry:  syscall
        movq    own_rdi(%rip), %rdi
        movq    own_rsi(%rip), %rsi
        movq    own_rdx(%rip), %rdx
        movq    own_r10(%rip), %r10
        movq    own_r8(%rip), %r8
        movq    own_r9(%rip), %r9
        movq    back(%rip), %rcx        /* as the program's own call would have left it */
        jmp     *back(%rip)
        .balign 16                      /* the slots are a multiple of 16 bytes */
own_rdi:        .quad 0
own_rsi:        .quad 0
own_rdx:        .quad 0
own_r10:        .quad 0
own_r8:         .quad 0
own_r9:         .quad 0
back:           .quad 0                 /* behind the program's own `syscall` */
number:         .quad 0                 /* of the call that the program made */
timespec:       .quad 0, 0              /* what is left, for the call made here */
