/* Waits for SIGUSR1 with a local descriptor table of its own (modify_ldt(2)), then ends with 0. */
#include <asm/ldt.h>
#include <signal.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(void)
{
    sigset_t usr1;
    int number;
    struct user_desc entry = {.limit = 0xFFFF, .seg_32bit = 1, .useable = 1};
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    sigprocmask(SIG_BLOCK, &usr1, NULL);
    if (syscall(SYS_modify_ldt, 1, &entry, sizeof entry))
        return 77;
    puts("ready");
    fflush(stdout);
    return sigwait(&usr1, &number);
}
