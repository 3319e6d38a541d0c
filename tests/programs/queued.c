/* Waits for a SIGUSR1 that was queued with the value 4711. It checks itself: a signal that somebody has passed on
   without its value would be told. */
#include <signal.h>
#include <stdio.h>

int main(void)
{
    sigset_t set;
    siginfo_t info;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    printf("ready\n");
    fflush(stdout);
    if (sigwaitinfo(&set, &info) != SIGUSR1 || info.si_code != SI_QUEUE || info.si_value.sival_int != 4711) {
        printf("code %d, value %d\n", info.si_code, info.si_value.sival_int);
        return 1;
    }
    printf("ok\n");
    return 0;
}
