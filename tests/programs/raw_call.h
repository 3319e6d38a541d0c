/* One system call by an instruction of the program's own, and whether the registers of its arguments come back as they
   were: no libc tells that. For x86-64, and for i386 by `int $0x80`. Used by programs that wait. */
#include <stdint.h>
#include <time.h>

#ifdef __i386__
/* ebx, ecx, edx, esi, edi, ebp. */
long call32(long number, const uint64_t in[6], uint32_t out[6]);
__asm__("call32:\n"
        "push %ebx\n push %esi\n push %edi\n push %ebp\n"
        "mov 20(%esp), %eax\n mov 24(%esp), %ebp\n"
        "mov 0(%ebp), %ebx\n mov 8(%ebp), %ecx\n mov 16(%ebp), %edx\n mov 24(%ebp), %esi\n mov 32(%ebp), %edi\n"
        "mov 40(%ebp), %ebp\n"
        "int $0x80\n"
        "push %ebp\n mov 32(%esp), %ebp\n"
        "mov %ebx, 0(%ebp)\n mov %ecx, 4(%ebp)\n mov %edx, 8(%ebp)\n mov %esi, 12(%ebp)\n mov %edi, 16(%ebp)\n"
        "pop %ecx\n mov %ecx, 20(%ebp)\n"
        "pop %ebp\n pop %edi\n pop %esi\n pop %ebx\n ret\n");

static long call(long number, const uint64_t in[6], int *kept)
{
    uint32_t out[6];
    long result = call32(number, in, out);
    *kept = 1;
    for (int i = 0; i < 6; i++)
        *kept &= out[i] == (uint32_t)in[i];
    return result;
}
#else
/* rdi, rsi, rdx, r10, r8, r9; and rbx, which livecr borrows for some calls. */
static long call(long number, const uint64_t in[6], int *kept)
{
    register uint64_t rdi __asm__("rdi") = in[0], rsi __asm__("rsi") = in[1], rdx __asm__("rdx") = in[2];
    register uint64_t r10 __asm__("r10") = in[3], r8 __asm__("r8") = in[4], r9 __asm__("r9") = in[5];
    uint64_t rbx = 0x0123456789abcdef;
    long result = number;
    __asm__ volatile("syscall"
                     : "+a"(result), "+r"(rdi), "+r"(rsi), "+r"(rdx), "+r"(r10), "+r"(r8), "+r"(r9), "+b"(rbx)
                     :
                     : "rcx", "r11", "memory");
    *kept = rdi == in[0] && rsi == in[1] && rdx == in[2] && r10 == in[3] && r8 == in[4] && r9 == in[5] &&
            rbx == 0x0123456789abcdef;
    return result;
}
#endif

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}
