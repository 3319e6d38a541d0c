/* Many threads in epoll_wait, each with a timeout of its own: `wait_pool THREADS FIRST_MS STEP_MS ROUNDS`.
   Thread i waits ROUNDS times for FIRST_MS + i * STEP_MS. Prints "waiting" when all have begun, then JSON: how many calls
   did not return 0, and by how much the waits were late, at least and at most; that once SIGUSR1 has come. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <time.h>

static int epoll, rounds, wrong;
static int64_t earliest = INT64_MAX, latest = INT64_MIN;
static pthread_barrier_t barrier;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static void *wait_in_it(void *argument)
{
    int milliseconds = (int)(intptr_t)argument;
    struct epoll_event event;
    pthread_barrier_wait(&barrier);
    for (int i = 0; i < rounds; i++) {
        int64_t began = now_ns();
        int result = epoll_wait(epoll, &event, 1, milliseconds);
        int64_t late = now_ns() - began - milliseconds * 1000000ll;
        pthread_mutex_lock(&lock);
        wrong += result != 0;
        earliest = late < earliest ? late : earliest;
        latest = late > latest ? late : latest;
        pthread_mutex_unlock(&lock);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    if (argc != 5)
        return 2;
    int threads = atoi(argv[1]), first = atoi(argv[2]), step = atoi(argv[3]);
    rounds = atoi(argv[4]);
    epoll = epoll_create1(0);
    sigset_t told;
    int number;
    sigemptyset(&told);
    sigaddset(&told, SIGUSR1);
    sigprocmask(SIG_BLOCK, &told, NULL);
    pthread_barrier_init(&barrier, NULL, threads + 1);
    pthread_t *tids = calloc(threads, sizeof *tids);
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 64 << 10);
    for (int i = 0; i < threads; i++)
        if (pthread_create(&tids[i], &small, wait_in_it, (void *)(intptr_t)(first + i * step)))
            return 3;
    pthread_barrier_wait(&barrier);
    puts("waiting");
    fflush(stdout);
    for (int i = 0; i < threads; i++)
        pthread_join(tids[i], NULL);
    sigwait(&told, &number);
    printf("{\"wrong\": %d, \"earliest_ns\": %lld, \"latest_ns\": %lld}\n", wrong, (long long)earliest, (long long)latest);
    return 0;
}
