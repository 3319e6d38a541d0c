/* Waits of glibc, each in a thread: condition variables, semaphores, mutexes, joins, sleeps and timers, by
   CLOCK_MONOTONIC and by CLOCK_REALTIME. waits WAIT_MS. Prints "ready", then "NAME ASKED_NS TOOK_NS" for each wait that
   has ended, by the clock that the wait itself goes by, then "done". Knows nothing of livecr. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

#define NS 1000000000LL
#define CHECK(x) do { if (!(x)) { fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #x); exit(1); } } while (0)

static long long asked_ns;
static pthread_t never_ends;
static sem_t alarms, expirations;

static long long now_ns(int clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * NS + t.tv_nsec;
}

static struct timespec timespec_of(long long ns) { return (struct timespec){ns / NS, ns % NS}; }

/* -- each waits until `end` (or for `asked_ns`), and gives ETIMEDOUT or 0 ------------------------------------------- */

static int condition(struct timespec end, clockid_t clock)
{
    pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    pthread_condattr_t attributes;
    pthread_cond_t never;
    int result;

    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, clock);
    pthread_cond_init(&never, &attributes);
    pthread_mutex_lock(&mutex);
    do
        result = pthread_cond_timedwait(&never, &mutex, &end); /* may wake for no reason, by POSIX */
    while (result == 0);
    pthread_mutex_unlock(&mutex);
    return result;
}

static int condition_monotonic(struct timespec end) { return condition(end, CLOCK_MONOTONIC); }
static int condition_realtime(struct timespec end) { return condition(end, CLOCK_REALTIME); }

static int condition_clockwait(struct timespec end)
{
    pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t never = PTHREAD_COND_INITIALIZER;
    int result;

    pthread_mutex_lock(&mutex);
    do
        result = pthread_cond_clockwait(&never, &mutex, CLOCK_MONOTONIC, &end);
    while (result == 0);
    pthread_mutex_unlock(&mutex);
    return result;
}

static int semaphore_timed(struct timespec end)
{
    sem_t never;
    sem_init(&never, 0, 0);
    return sem_timedwait(&never, &end) ? errno : 0;
}

static int semaphore_clock(struct timespec end)
{
    sem_t never;
    sem_init(&never, 0, 0);
    return sem_clockwait(&never, CLOCK_MONOTONIC, &end) ? errno : 0;
}

static pthread_mutex_t held = PTHREAD_MUTEX_INITIALIZER, held_pi; /* main has them */

static int mutex_timed(struct timespec end) { return pthread_mutex_timedlock(&held, &end); }
static int mutex_clock(struct timespec end) { return pthread_mutex_clocklock(&held, CLOCK_MONOTONIC, &end); }
static int mutex_pi(struct timespec end) { return pthread_mutex_timedlock(&held_pi, &end); }

static pthread_rwlock_t held_lock = PTHREAD_RWLOCK_INITIALIZER;

static int rwlock_timed(struct timespec end) { return pthread_rwlock_timedrdlock(&held_lock, &end); }

static int join_timed(struct timespec end) { return pthread_timedjoin_np(never_ends, NULL, &end); }

static int c11_condition(struct timespec end)
{
    mtx_t mutex;
    cnd_t never;
    int result;

    mtx_init(&mutex, mtx_plain);
    cnd_init(&never);
    mtx_lock(&mutex);
    do
        result = cnd_timedwait(&never, &mutex, &end);
    while (result == thrd_success);
    mtx_unlock(&mutex);
    return result == thrd_timedout ? ETIMEDOUT : result;
}

static int c11_sleep(struct timespec end)
{
    (void)end;
    struct timespec relative = timespec_of(asked_ns);
    return thrd_sleep(&relative, NULL) ? errno : 0;
}

static int sleep_microseconds(struct timespec end)
{
    (void)end;
    return usleep(asked_ns / 1000) ? errno : 0;
}

static int poll_nothing(struct timespec end)
{
    (void)end;
    return poll(NULL, 0, asked_ns / 1000000) ? errno : 0;
}

static int signal_timed(struct timespec end)
{
    (void)end;
    sigset_t set;
    struct timespec relative = timespec_of(asked_ns);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    return sigtimedwait(&set, NULL, &relative) < 0 && errno == EAGAIN ? ETIMEDOUT : errno;
}

static int posted(sem_t *semaphore)
{
    int result;
    do
        result = sem_wait(semaphore) ? errno : 0;
    while (result == EINTR);
    return result;
}

static void count_alarm(int signal)
{
    (void)signal;
    sem_post(&alarms);
}

static int interval_timer(struct timespec end)
{
    (void)end;
    struct itimerval once = {.it_value = {asked_ns / NS, asked_ns % NS / 1000}};
    CHECK(signal(SIGALRM, count_alarm) != SIG_ERR && setitimer(ITIMER_REAL, &once, NULL) == 0);
    return posted(&alarms);
}

/* Of this a thread of glibc's own takes the signal, in rt_sigtimedwait, and starts another. */
static void count_expiration(union sigval value) { sem_post(value.sival_ptr); }

static int timer_with_thread(struct timespec end)
{
    struct sigevent event = {.sigev_notify = SIGEV_THREAD, .sigev_notify_function = count_expiration};
    struct itimerspec at = {.it_value = end};
    timer_t timer;

    event.sigev_value.sival_ptr = &expirations;
    CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
    CHECK(timer_settime(timer, TIMER_ABSTIME, &at, NULL) == 0);
    return posted(&expirations);
}

static const struct wait {
    const char *name;
    clockid_t clock; /* of its deadline */
    int (*until)(struct timespec end);
    int result;
} waits[] = {
    {"pthread_cond_timedwait", CLOCK_MONOTONIC, condition_monotonic, ETIMEDOUT},
    {"pthread_cond_timedwait-realtime", CLOCK_REALTIME, condition_realtime, ETIMEDOUT},
    {"pthread_cond_clockwait", CLOCK_MONOTONIC, condition_clockwait, ETIMEDOUT},
    {"sem_timedwait-realtime", CLOCK_REALTIME, semaphore_timed, ETIMEDOUT},
    {"sem_clockwait", CLOCK_MONOTONIC, semaphore_clock, ETIMEDOUT},
    {"pthread_mutex_timedlock-realtime", CLOCK_REALTIME, mutex_timed, ETIMEDOUT},
    {"pthread_mutex_clocklock", CLOCK_MONOTONIC, mutex_clock, ETIMEDOUT},
    {"pthread_mutex_timedlock-pi-realtime", CLOCK_REALTIME, mutex_pi, ETIMEDOUT},
    {"pthread_rwlock_timedrdlock-realtime", CLOCK_REALTIME, rwlock_timed, ETIMEDOUT},
    {"pthread_timedjoin_np-realtime", CLOCK_REALTIME, join_timed, ETIMEDOUT},
    {"cnd_timedwait-realtime", CLOCK_REALTIME, c11_condition, ETIMEDOUT},
    {"thrd_sleep", CLOCK_MONOTONIC, c11_sleep, 0},
    {"usleep", CLOCK_MONOTONIC, sleep_microseconds, 0},
    {"poll", CLOCK_MONOTONIC, poll_nothing, 0},
    {"sigtimedwait", CLOCK_MONOTONIC, signal_timed, ETIMEDOUT},
    {"setitimer", CLOCK_MONOTONIC, interval_timer, 0},
    {"timer_create", CLOCK_MONOTONIC, timer_with_thread, 0},
};
#define WAITS (sizeof waits / sizeof *waits)

static void *timed(void *argument)
{
    const struct wait *wait = argument;
    long long began = now_ns(wait->clock);
    int result = wait->until(timespec_of(began + asked_ns));
    long long took = now_ns(wait->clock) - began;

    if (result != wait->result) {
        fprintf(stderr, "%s: %s\n", wait->name, strerror(result));
        exit(1);
    }
    printf("%s %lld %lld\n", wait->name, asked_ns, took);
    fflush(stdout);
    return NULL;
}

static void *forever(void *unused)
{
    for (;;)
        pause();
    return unused;
}

int main(int argc, char **argv)
{
    pthread_t threads[WAITS];
    pthread_mutexattr_t inherit;
    sigset_t set;

    CHECK(argc == 2);
    asked_ns = atoll(argv[1]) * 1000000;
    CHECK(pthread_mutexattr_init(&inherit) == 0);
    CHECK(pthread_mutexattr_setprotocol(&inherit, PTHREAD_PRIO_INHERIT) == 0);
    CHECK(pthread_mutex_init(&held_pi, &inherit) == 0);
    CHECK(pthread_mutex_lock(&held) == 0 && pthread_mutex_lock(&held_pi) == 0);
    CHECK(pthread_rwlock_wrlock(&held_lock) == 0);
    CHECK(sem_init(&alarms, 0, 0) == 0 && sem_init(&expirations, 0, 0) == 0);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    CHECK(pthread_sigmask(SIG_BLOCK, &set, NULL) == 0);
    CHECK(pthread_create(&never_ends, NULL, forever, NULL) == 0);
    for (size_t i = 0; i < WAITS; i++)
        CHECK(pthread_create(&threads[i], NULL, timed, (void *)&waits[i]) == 0);
    printf("ready\n");
    fflush(stdout);
    for (size_t i = 0; i < WAITS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    printf("done\n");
    return 0;
}
