/* Has many threads that only wait, sleeps as many milliseconds as the argument says, and then ends with status 7. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define THREADS 30

static void *wait_for_ever(void *unused)
{
    pause();
    return unused;
}

int main(int argc, char **argv)
{
    long long ms = argc > 1 ? atoll(argv[1]) : 0;
    struct timespec time = {ms / 1000, ms % 1000 * 1000000};
    for (int i = 0; i < THREADS; i++) {
        pthread_t thread;
        pthread_create(&thread, NULL, wait_for_ever, NULL);
    }
    puts("ready");
    fflush(stdout);
    nanosleep(&time, NULL);
    return 7;
}
