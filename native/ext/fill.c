/* Whether what livecr/kinds/fill.py would like to use is there. */
#include "declarations.inc"
#include "fill.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

int lcr_can_move_pages(void)
{
    /* <linux/userfaultfd.h> may be older than the kernel. */
    const uint64_t feature_move = 1 << 16;
    struct uffdio_api api = {.api = UFFD_API};
    int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
    if (uffd < 0)
        return 0;
    int answered = ioctl(uffd, UFFDIO_API, &api) == 0;
    close(uffd);
    return answered && (api.features & feature_move);
}

int lcr_has_avx2(void)
{
    return __builtin_cpu_supports("avx2") != 0;
}
