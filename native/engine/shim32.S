/* The shim of a 32-bit task: see shim.S. Code there cannot reach its data relative to where it stands, so the
 * program's own registers are the operands of its instructions; livecr/target/shim.py knows where (COMPAT_WORDS).
 * It stands in unused bytes of the 32-bit vDSO's last page.
 */
        .text
        .globl shim
shim:
        .ascii  "livecr>\2"
entry:  int     $0x80                   /* also where the program came by sysenter or syscall (vDSO, __kernel_vsyscall) */
        .byte   0xbb                    /* mov $own,%ebx, and so on: always with 4 bytes of operand */
        .long   0
        .byte   0xb9                    /* ecx */
        .long   0
        .byte   0xba                    /* edx */
        .long   0
        .byte   0xbe                    /* esi */
        .long   0
        .byte   0xbf                    /* edi */
        .long   0
        .byte   0xbd                    /* ebp */
        .long   0
        .byte   0xe9                    /* jmp behind the program's own `int $0x80`: relative to the next instruction */
        .long   0
        .balign 4
number: .long   0                       /* of the call that the program made */
timespec: .long 0, 0, 0, 0              /* what is left, for the call made here: as that call has it */
        .balign 16                      /* the slots are a multiple of 16 bytes */
