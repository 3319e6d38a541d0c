/* Eight threads, each in another call that ends after as many milliseconds as the argument says, and a main thread that
   waits for them. Prints what each call gave back and how late it was, as one JSON array. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define NS 1000000000LL
#define THREADS 8

static int milliseconds, words[THREADS];
static struct result {
    long result, number;
    long long late_ns;
} results[THREADS];

static struct timespec now_and(int clock, long long ns)
{
    struct timespec t;
    clock_gettime(clock, &t);
    ns += t.tv_sec * NS + t.tv_nsec;
    return (struct timespec){ns / NS, ns % NS};
}

static long long ns_of(struct timespec t) { return t.tv_sec * NS + t.tv_nsec; }

static void *wait_in(void *number)
{
    long i = (long)number;
    long long ns = milliseconds * 1000000LL;
    struct timespec relative = {ns / NS, ns % NS}, boottime = now_and(CLOCK_BOOTTIME, ns);
    struct timespec monotonic = now_and(CLOCK_MONOTONIC, ns);
    struct timeval timeval = {relative.tv_sec, relative.tv_nsec / 1000};
    long result = -1;
    errno = 0;
    switch (i) {
    case 0: result = syscall(SYS_nanosleep, &relative, NULL); break;
    case 1: result = syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &monotonic, NULL); break;
    case 2: result = syscall(SYS_clock_nanosleep, CLOCK_BOOTTIME, TIMER_ABSTIME, &boottime, NULL); break;
    case 3: result = syscall(SYS_futex, &words[i], FUTEX_WAIT_PRIVATE, 0, &relative); break;
    case 4: result = syscall(SYS_futex, &words[i], FUTEX_WAIT_BITSET_PRIVATE, 0, &monotonic, NULL, 1); break;
    case 5: result = syscall(SYS_poll, NULL, 0, milliseconds); break;
    case 6: result = syscall(SYS_ppoll, NULL, 0, &relative, NULL, 8); break;
    case 7: result = syscall(SYS_select, 0, NULL, NULL, NULL, &timeval); break;
    }
    results[i] = (struct result){result, errno, ns_of(now_and(CLOCK_MONOTONIC, 0)) - ns_of(monotonic)};
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t threads[THREADS];
    milliseconds = argc > 1 ? atoi(argv[1]) : 1000;
    for (long i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, wait_in, (void *)i);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < THREADS; i++)
        printf("%s{\"result\": %ld, \"errno\": %ld, \"late_ns\": %lld}", i ? ", " : "[", results[i].result,
               results[i].number, results[i].late_ns);
    printf("]\n");
    return 0;
}
