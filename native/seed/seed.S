/* The seed: the static executable that a restored process starts as. Its first instruction is the system
   call through which livecr makes the first calls in it (livecr/target/spawn.py); of the seed itself nothing
   is left once the process has become what it was. It never runs without a tracer: PTRACE_O_EXITKILL. */
        .text
        .globl _start
_start: syscall
        movl    $60, %eax               /* not reached under its tracer: exit(1) */
        movl    $1, %edi
        syscall
        .section .note.GNU-stack,"",@progbits
