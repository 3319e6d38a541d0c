/* build: -m32
   Holds what only 32-bit programs have, and checks it when it gets SIGUSR1: segments for thread-local storage (one of
   its own beside the C library's), robust mutexes, handlers of both kinds, the vDSO, files opened without O_LARGEFILE.
   usage: compat DIRECTORY; prints "ready", then after SIGUSR1 "ok" or what is different. */
#define _GNU_SOURCE
#include <asm/ldt.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

enum { THREADS = 3 };

static int failures;
#define CHECK(what, ...) do { if (!(what)) { failures++; printf("different: " __VA_ARGS__); putchar('\n'); } } while (0)

static __thread int local;
static pthread_mutex_t robust[THREADS];
static sem_t held, go;
static char pointed_to[] = "through a segment";
static unsigned selector; /* of a segment that begins at pointed_to */

/* A handler must be entered on a 32-bit frame, and sigreturn must find its way back from it. */
static volatile int plain_runs, info_value;
static volatile uintptr_t interrupted_at;
static char alternate[65536];
static volatile int on_alternate;

static void on_plain(int number)
{
    (void)number;
    plain_runs++;
    on_alternate = (char *)&number > alternate && (char *)&number < alternate + sizeof alternate;
}

static void on_info(int number, siginfo_t *info, void *context)
{
    (void)number;
    info_value = info->si_value.sival_int;
    interrupted_at = (uintptr_t)((ucontext_t *)context)->uc_mcontext.gregs[REG_EIP];
}

static char through_segment(int at)
{
    char found;
    __asm__ volatile("mov %1, %%fs\n movb %%fs:(%2), %0\n" : "=q"(found) : "r"(selector), "r"(at));
    return found;
}

/* Holds its mutex until it ends: the next owner must be told by the kernel, which walks the robust list. */
static void *owner(void *which)
{
    int mine = (int)(intptr_t)which;
    local = 100 + mine;
    pthread_mutex_lock(&robust[mine]);
    sem_post(&held);
    while (sem_wait(&go) && errno == EINTR)
        ;
    CHECK(local == 100 + mine, "thread-local variable of thread %d", mine);
    return NULL;
}

static void check_robust(void)
{
    for (int i = 0; i < THREADS; i++) {
        struct timespec soon;
        clock_gettime(CLOCK_REALTIME, &soon);
        soon.tv_sec += 10;
        int error = pthread_mutex_timedlock(&robust[i], &soon);
        CHECK(error == EOWNERDEAD, "robust mutex %d: %s", i, strerror(error));
    }
}

static void check_handlers(void)
{
    sigqueue(getpid(), SIGRTMIN + 1, (union sigval){.sival_int = 4711});
    CHECK(info_value == 4711 && interrupted_at != 0, "handler with siginfo: %d", info_value);
    raise(SIGUSR2);
    CHECK(plain_runs == 1, "plain handler: ran %d times", plain_runs);
    CHECK(on_alternate, "handler on the alternate stack");
    CHECK(local == 7, "thread-local variable after a handler");
}

int main(int argc, char **argv)
{
    if (argc != 2) return 2;
    setvbuf(stdout, NULL, _IOLBF, 0);
    sigset_t usr1;
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &usr1, NULL);

    struct user_desc segment = {.entry_number = -1, .base_addr = (uintptr_t)pointed_to, .limit = 0xFFFFF, .seg_32bit = 1,
                                .limit_in_pages = 1, .useable = 1};
    CHECK(syscall(SYS_set_thread_area, &segment) == 0, "set_thread_area: %m");
    selector = segment.entry_number * 8 + 3;
    local = 7;
    sem_init(&held, 0, 0);
    sem_init(&go, 0, 0);
    pthread_mutexattr_t attribute;
    pthread_mutexattr_init(&attribute);
    pthread_mutexattr_setrobust(&attribute, PTHREAD_MUTEX_ROBUST);
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        pthread_mutex_init(&robust[i], &attribute);
        pthread_create(&threads[i], NULL, owner, (void *)(intptr_t)i);
        sem_wait(&held);
    }
    stack_t stack = {.ss_sp = alternate, .ss_size = sizeof alternate};
    sigaltstack(&stack, NULL);
    sigaction(SIGUSR2, &(struct sigaction){.sa_handler = on_plain, .sa_flags = SA_ONSTACK}, NULL);
    sigaction(SIGRTMIN + 1, &(struct sigaction){.sa_sigaction = on_info, .sa_flags = SA_SIGINFO}, NULL);
    char path[4096];
    snprintf(path, sizeof path, "%s/small", argv[1]);
    int small = open(path, O_RDWR | O_CREAT, 0600), large = open(path, O_RDWR | O_LARGEFILE);
    int small_flags = fcntl(small, F_GETFL), large_flags = fcntl(large, F_GETFL);
    unsigned long sysinfo = getauxval(AT_SYSINFO);
    puts("ready");

    int number;
    while (sigwait(&usr1, &number) || number != SIGUSR1)
        ;
    for (int i = 0; i < (int)sizeof pointed_to; i++)
        CHECK(through_segment(i) == pointed_to[i], "byte %d of a segment", i);
    check_handlers();
    for (int i = 0; i < THREADS; i++) sem_post(&go);
    check_robust();
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    CHECK(fcntl(small, F_GETFL) == small_flags && fcntl(large, F_GETFL) == large_flags, "O_LARGEFILE: %#x, %#x",
          fcntl(small, F_GETFL), fcntl(large, F_GETFL));
    CHECK(!(small_flags & 0100000) && large_flags & 0100000, "flags before: %#x, %#x", small_flags, large_flags);
    CHECK(sysinfo && getauxval(AT_SYSINFO) == sysinfo, "vDSO entry");
    struct timespec t;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &t) == 0 && t.tv_sec > 0, "clock by the vDSO");
    puts(failures ? "failed" : "ok");
    return failures != 0;
}
