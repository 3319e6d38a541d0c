/* 32-bit system calls of livecr's own, for what a 64-bit one does in another way (fs/open.c, force_o_largefile). */
#include "declarations.inc"
#include "ia32.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { NR_IA32_GETPID = 20, NR_IA32_OPENAT = 295 };

static long ia32_call(long nr, unsigned long a, unsigned long b, unsigned long c)
{
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "0"(nr), "b"(a), "c"(b), "d"(c) : "r8", "r9", "r10", "r11", "memory");
    return (int)result;
}

/* Where there are none, `int $0x80` is a general protection fault: so it is tried in a child. */
int lcr_has_ia32(void)
{
    static int known = -1;
    if (known >= 0)
        return known;
    int status;
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_DUMPABLE, 0); /* no core file */
        _exit(ia32_call(NR_IA32_GETPID, 0, 0, 0) == getpid() ? 0 : 1);
    }
    pid_t waited;
    do
        waited = child < 0 ? -1 : waitpid(child, &status, 0);
    while (waited < 0 && errno == EINTR && child > 0);
    if (waited < 0)
        return 0;
    return known = WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

long lcr_open_ia32(const char *path, int flags)
{
    size_t size = strlen(path) + 1;
    if (!lcr_has_ia32())
        return -ENOSYS;
    /* The path has to lie where 32 bits can reach it. */
    char *low = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    if (low == MAP_FAILED)
        return -errno;
    memcpy(low, path, size);
    long result = ia32_call(NR_IA32_OPENAT, (unsigned)AT_FDCWD, (unsigned long)low, (unsigned)flags);
    munmap(low, size);
    return result;
}
