/* Waits for CPU time: by the kind named in the first argument, until its own process, one thread of it or another
   process has used as many milliseconds as the second says. A thread (or a child) uses the time; it stands still after as many
   milliseconds as the third says (0: does not), until SIGUSR2 comes, so that a checkpoint can be made at a point that
   is known. It counts what it has used by itself, a little at a time, so that a clock that begins anew counts for
   nothing. Prints as JSON what the call gave back, and how much had been used by then. A fourth argument says how a
   handler of SIGUSR1 is installed: "handler" or "restart" (SA_RESTART); of the kinds that end in -other, the fifth is
   the PID of the other process, and that one is expected to use the time: `wait_cpu spin`. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#if defined(__i386__) && _TIME_BITS == 64
#undef SYS_clock_nanosleep
#define SYS_clock_nanosleep SYS_clock_nanosleep_time64
#endif

#define NS 1000000000LL
#define MS 1000000LL
#define AT_ONCE (50 * MS) /* the thread reads its clock far more often */
#define UNTOUCHED {7, 7}

static struct timespec given, due, left = UNTOUCHED;
static clockid_t id;
static volatile long long used_when_handled;
static volatile int handled;
static long long pause_at, too_much;
static pthread_t burner;
static pid_t child;
static struct {
    volatile long long used;
    volatile int done;
    pthread_barrier_t both;
} *shared; /* with the child, if it is that one which uses the time */

static long long now_ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * NS + t.tv_nsec;
}

static void on_usr1(int number)
{
    (void)number;
    used_when_handled = shared->used;
    handled++;
}

/* Less than 0.2 ms of it. */
static void work(void)
{
    for (volatile int i = 0; i < 50000; i++)
        ;
}

static void *burn(void *unused)
{
    sigset_t usr2;
    int number;
    (void)unused;
    /* Less urgent than the thread that waits, so that it uses little more until that one has noticed. */
    sched_setscheduler(0, SCHED_OTHER, &(struct sched_param){0});
    setpriority(PRIO_PROCESS, (id_t)gettid(), 0);
    sigemptyset(&usr2);
    sigaddset(&usr2, SIGUSR2);
    pthread_barrier_wait(&shared->both);
    for (long long was = now_ns(CLOCK_THREAD_CPUTIME_ID); !shared->done;) {
        work();
        long long is = now_ns(CLOCK_THREAD_CPUTIME_ID);
        if (is >= was && is - was < AT_ONCE)
            shared->used += is - was;
        was = is;
        if (pause_at && shared->used >= pause_at) {
            pause_at = 0;
            puts("paused");
            fflush(stdout);
            sigwait(&usr2, &number);
        }
        if (shared->used > too_much) {
            puts("it was not woken");
            fflush(stdout);
            _exit(1);
        }
    }
    return NULL;
}

/* -- the kinds: raw calls */

static long c_relative(void) { return syscall(SYS_clock_nanosleep, id, 0, &given, &left); }
static long c_relative_null(void) { return syscall(SYS_clock_nanosleep, id, 0, &given, NULL); }
static long c_absolute(void) { return syscall(SYS_clock_nanosleep, id, TIMER_ABSTIME, &due, &left); }

static long take_signal(void)
{
    sigset_t set;
    int number;
    sigemptyset(&set);
    sigaddset(&set, SIGALRM);
    sigaddset(&set, SIGPROF);
    sigaddset(&set, SIGVTALRM);
    sigwait(&set, &number);
    return number;
}

static long posix_timer(int flags)
{
    timer_t timer;
    struct itimerspec spec = {.it_value = flags ? due : given};
    timer_create(id, NULL, &timer);
    timer_settime(timer, flags, &spec, NULL);
    return take_signal();
}
static long c_timer(void) { return posix_timer(0); }
static long c_timer_absolute(void) { return posix_timer(TIMER_ABSTIME); }

static long interval_timer(int which)
{
    struct itimerval value = {.it_value = {given.tv_sec, given.tv_nsec / 1000}};
    setitimer(which, &value, NULL);
    return take_signal();
}
static long c_itimer_prof(void) { return interval_timer(ITIMER_PROF); }
static long c_itimer_virtual(void) { return interval_timer(ITIMER_VIRTUAL); }

enum { PROCESS, BY_PID, THREAD, OWN_THREAD, USER_AND_SYSTEM, OTHER, CHILD };

static const struct row {
    const char *name;
    int clock;
    long (*call)(void);
} rows[] = {
    {"relative", PROCESS, c_relative},
    {"relative-null", PROCESS, c_relative_null},
    {"relative-pid", BY_PID, c_relative},
    {"relative-thread", THREAD, c_relative},
    {"relative-prof", USER_AND_SYSTEM, c_relative},
    {"relative-other", OTHER, c_relative},
    {"relative-child", CHILD, c_relative},
    {"absolute", PROCESS, c_absolute},
    {"absolute-pid", BY_PID, c_absolute},
    {"absolute-thread", THREAD, c_absolute},
    {"absolute-other", OTHER, c_absolute},
    {"absolute-child", CHILD, c_absolute},
    {"timer", PROCESS, c_timer},
    {"timer-absolute", PROCESS, c_timer_absolute},
    {"timer-thread", THREAD, c_timer},
    {"timer-self", OWN_THREAD, c_timer},
    {"timer-other", OTHER, c_timer},
    {"timer-child", CHILD, c_timer},
    {"itimer-prof", PROCESS, c_itimer_prof},
    {"itimer-virtual", PROCESS, c_itimer_virtual},
};

static clockid_t clock_of(const struct row *row, pid_t other)
{
    clockid_t clock = CLOCK_PROCESS_CPUTIME_ID;
    if (row->clock == BY_PID)
        clock_getcpuclockid(getpid(), &clock);
    else if (row->clock == OTHER || row->clock == CHILD)
        clock_getcpuclockid(row->clock == CHILD ? child : other, &clock);
    else if (row->clock == THREAD)
        pthread_getcpuclockid(burner, &clock);
    else if (row->clock == OWN_THREAD)
        clock = CLOCK_THREAD_CPUTIME_ID;
    else if (row->clock == USER_AND_SYSTEM)
        clock = (clockid_t)(~0U << 3); /* CPUCLOCK_PROF */
    return clock;
}

int main(int argc, char **argv)
{
    const struct row *row = NULL;
    sigset_t blocked;
    if (argc > 1 && !strcmp(argv[1], "spin"))
        for (;;)
            work();
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows) && argc > 3; i++)
        if (!strcmp(argv[1], rows[i].name))
            row = &rows[i];
    if (!row)
        return 2;
    long long wanted = atoi(argv[2]) * MS;
    pause_at = atoi(argv[3]) * MS;
    too_much = wanted + 3 * NS;
    given = (struct timespec){wanted / NS, wanted % NS};
    /* All but SIGUSR1 wait for sigwait; it is for this thread, which sleeps. */
    sigfillset(&blocked);
    pthread_sigmask(SIG_BLOCK, &blocked, NULL);
    pthread_barrierattr_t attributes;
    pthread_barrierattr_init(&attributes);
    pthread_barrierattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pthread_barrier_init(&shared->both, &attributes, 2);
    if (row->clock == CHILD) {
        if (!(child = fork())) {
            burn(NULL);
            _exit(0);
        }
    } else if (row->clock != OTHER)
        pthread_create(&burner, NULL, burn, NULL);
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    pthread_sigmask(SIG_UNBLOCK, &blocked, NULL);
    if (argc > 4) {
        struct sigaction action = {.sa_handler = on_usr1};
        if (!strcmp(argv[4], "restart"))
            action.sa_flags = SA_RESTART;
        sigaction(SIGUSR1, &action, NULL);
    }

    id = clock_of(row, argc > 5 ? atoi(argv[5]) : 0);
    if (row->clock != OTHER)
        pthread_barrier_wait(&shared->both);
    else
        puts("paused");
    fflush(stdout);
    long long due_ns = now_ns(id) + wanted;
    struct timespec due_was = due = (struct timespec){due_ns / NS, due_ns % NS}, given_was = given;
    errno = 0;
    long result = row->call();
    int number = result < 0 ? errno : 0;
    long long used_then = row->clock == OTHER ? now_ns(id) - due_ns + wanted : shared->used;
    shared->done = 1;
    printf("{\"result\": %ld, \"errno\": %d, \"used_ns\": %lld, \"left_ns\": %lld, \"handled\": %d, "
           "\"used_when_handled_ns\": %lld, \"timeout_kept\": %d}\n",
           result, number, used_then, (long long)left.tv_sec * NS + left.tv_nsec, handled, used_when_handled,
           !memcmp(&due, &due_was, sizeof(due)) && !memcmp(&given, &given_was, sizeof(given)));
    return 0;
}
