/* Open file descriptions compared by kcmp(2): thousands of them are sorted in a freeze, so the search is here. */
#include "declarations.inc"
#include "kcmp.h"

#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { KCMP_FILE = 0, EQUAL = 0, LESS = 1, GREATER = 2 };

long lcr_kcmp_find(const int *pids, const int *fds, long count, int pid, int fd)
{
    long low = 0, high = count;
    while (low < high) {
        long middle = (low + high) / 2;
        long result = syscall(SYS_kcmp, pids[middle], pid, KCMP_FILE, fds[middle], fd);
        if (result == EQUAL)
            return middle;
        if (result == LESS)
            low = middle + 1;
        else if (result == GREATER)
            high = middle;
        else /* 3: the kernel tells no order */
            return -LCR_KCMP_FAILED - (result < 0 ? errno : EOPNOTSUPP);
    }
    return -1 - low;
}
