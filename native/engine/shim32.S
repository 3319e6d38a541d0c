/* The shims of 32-bit tasks: see shim.S, whose layout they share. A 32-bit call keeps all registers but eax, so the way
 * back leads over the stack, which i386 lets no program use below its pointer. No polling here: a socket's timeout is always
 * lent.
 */
        .text
        .globl shim
shim:
        .ascii  "livecr>\5"
        .short  in_edx - shim, in_edx_back - shim, in_edx_leave - shim, in_edx_left - shim
        .short  in_esi - shim, in_esi_back - shim, in_esi_leave - shim, in_esi_left - shim
        .short  in_edi - shim, in_edi_back - shim, in_edi_leave - shim, in_edi_left - shim
        .short  in_ebp - shim, in_ebp_back - shim, in_ebp_leave - shim, in_ebp_left - shim
        .short  lend - shim, lend_set - shim, lend_leave - shim, lend_left - shim
        .short  lend_ready - shim, lend_back - shim, lend_kept - shim, lend_over - shim

        pollfd = 16
        own_ebx = 32
        own_ecx = 40
        own_edx = 48
        own_esi = 56
        own_edi = 64
        own_ebp = 72
        back = 80                       /* behind the program's own `int $0x80`, also where it came by sysenter */

        mover = 136
        address = 144
        size = 152
        lent = 184
        option = 192
        original = 200
        result = 216

        .macro  leave reg
        .irp    other, ebx, ecx, edx, esi, edi, ebp
        .ifnc   \other, \reg
        movl    own_\other(%\reg), %\other
        .endif
        .endr
        xchgl   own_\reg(%\reg), %\reg
        .endm

        .macro  call_with reg
in_\reg:        int     $0x80
in_\reg\()_back:
        pushl   back(%\reg)
in_\reg\()_leave:
        leave   \reg
in_\reg\()_left:
        ret
        .endm

        call_with edx
        call_with esi
        call_with edi
        call_with ebp

lend:   int     $0x80
lend_set:
        testl   %eax, %eax
        js      lend_over
lend_ready:
        movl    address(%ebp), %ebx
        movl    size(%ebp), %ecx
        movl    own_edx(%ebp), %edx
        movl    own_esi(%ebp), %esi
        movl    own_edi(%ebp), %edi
        movl    mover(%ebp), %eax
        int     $0x80
lend_back:
        cmpl    $0, lent(%ebp)
        je      lend_over
        movl    %eax, result(%ebp)
lend_kept:
        movl    pollfd(%ebp), %ebx
        movl    $1, %ecx
        movl    option(%ebp), %edx
        leal    original(%ebp), %esi
        movl    $16, %edi
        movl    $366, %eax
        int     $0x80
        movl    result(%ebp), %eax
lend_over:
        pushl   back(%ebp)
lend_leave:
        leave   ebp
lend_left:
        ret
