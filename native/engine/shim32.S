/* The shims of 32-bit tasks: see shim.S, whose layout they share. A 32-bit call keeps all registers but eax, so the way
 * back leads over the stack, which i386 lets no program use below its pointer. No polling here.
 */
        .text
        .globl shim
shim:
        .ascii  "livecr>\3"
        .short  in_edx - shim, in_edx_back - shim, in_edx_leave - shim, in_edx_left - shim
        .short  in_esi - shim, in_esi_back - shim, in_esi_leave - shim, in_esi_left - shim
        .short  in_edi - shim, in_edi_back - shim, in_edi_leave - shim, in_edi_left - shim
        .short  in_ebp - shim, in_ebp_back - shim, in_ebp_leave - shim, in_ebp_left - shim

        own_ebx = 32
        own_ecx = 40
        own_edx = 48
        own_esi = 56
        own_edi = 64
        own_ebp = 72
        back = 80                       /* behind the program's own `int $0x80`, also where it came by sysenter */

        .macro  call_with reg
in_\reg:        int     $0x80
in_\reg\()_back:
        pushl   back(%\reg)
in_\reg\()_leave:
        .irp    other, ebx, ecx, edx, esi, edi, ebp
        .ifnc   \other, \reg
        movl    own_\other(%\reg), %\other
        .endif
        .endr
        xchgl   own_\reg(%\reg), %\reg
in_\reg\()_left:
        ret
        .endm

        call_with edx
        call_with esi
        call_with edi
        call_with ebp
