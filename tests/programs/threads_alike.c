/* Many threads in two kinds of waits, most of them alike, every hundredth with a setting that it alone has.
   On SIGUSR1 each checks what it has, and its thread-local memory. usage: threads_alike COUNT */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define KINDS 7
static unsigned gate, ready, right;
static __thread long own;

static int kind_of(long number)
{
    return number % 100 < KINDS ? (int)(number % 100) : 0;
}

static unsigned long blocked(void)
{
    sigset_t set;
    pthread_sigmask(SIG_SETMASK, NULL, &set);
    return sigismember(&set, SIGUSR2) + 2 * sigismember(&set, SIGUSR1);
}

/* What a thread can have for itself, asked by its own calls. */
static void ask(unsigned long found[KINDS])
{
    int death = 0;
    stack_t stack;
    cpu_set_t cpus;
    prctl(PR_GET_PDEATHSIG, &death);
    sigaltstack(NULL, &stack);
    sched_getaffinity(0, sizeof cpus, &cpus);
    found[0] = blocked();
    found[1] = (unsigned long)prctl(PR_GET_TIMERSLACK);
    found[2] = (unsigned long)death;
    found[3] = (unsigned long)prctl(PR_MCE_KILL_GET, 0, 0, 0, 0);
    found[4] = stack.ss_flags & SS_DISABLE ? 0 : (unsigned long)stack.ss_sp;
    found[5] = (unsigned long)getpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid));
    found[6] = (unsigned long)CPU_COUNT(&cpus);
}

static void be_different(int kind, long number)
{
    stack_t stack = {.ss_sp = malloc(SIGSTKSZ), .ss_size = SIGSTKSZ};
    cpu_set_t first;
    CPU_ZERO(&first);
    CPU_SET(0, &first);
    if (kind == 1)
        prctl(PR_SET_TIMERSLACK, 100000 + number);
    else if (kind == 2)
        prctl(PR_SET_PDEATHSIG, SIGUSR2);
    else if (kind == 3)
        prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0);
    else if (kind == 4)
        sigaltstack(&stack, NULL);
    else if (kind == 5)
        setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), 7);
    else if (kind == 6)
        sched_setaffinity(0, sizeof first, &first);
}

static void *thread(void *argument)
{
    long number = own = (long)argument;
    char name[16], named[16] = "";
    unsigned long before[KINDS], after[KINDS];
    struct timespec far = {600, 0};
    snprintf(name, sizeof name, "thread %ld", number);
    prctl(PR_SET_NAME, name);
    be_different(kind_of(number), number);
    ask(before);
    __atomic_add_fetch(&ready, 1, __ATOMIC_SEQ_CST);
    while (!__atomic_load_n(&gate, __ATOMIC_SEQ_CST))
        if (syscall(SYS_futex, &gate, FUTEX_WAIT_PRIVATE, 0, number % 2 ? &far : NULL, NULL, 0) != 0 &&
            errno != EAGAIN) {
            fprintf(stderr, "thread %ld: futex: %s\n", number, strerror(errno));
            return NULL;
        }
    ask(after);
    prctl(PR_GET_NAME, named);
    if (own == number && !strcmp(name, named) && !memcmp(before, after, sizeof before))
        __atomic_add_fetch(&right, 1, __ATOMIC_SEQ_CST);
    else
        for (int i = 0; i < KINDS; i++)
            fprintf(stderr, "thread %ld (%s): %d was %lu, is %lu\n", number, named, i, before[i], after[i]);
    return NULL;
}

int main(int argc, char **argv)
{
    long count = argc > 1 ? atol(argv[1]) : 0;
    pthread_t *threads = calloc((size_t)count, sizeof *threads);
    pthread_attr_t small;
    sigset_t set;
    int got;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 64 << 10);
    for (long i = 0; i < count; i++)
        if ((errno = pthread_create(&threads[i], &small, thread, (void *)i)) != 0) {
            perror("pthread_create");
            return 2;
        }
    while (__atomic_load_n(&ready, __ATOMIC_SEQ_CST) < (unsigned)count)
        usleep(1000);
    printf("ready\n");
    fflush(stdout);
    sigwait(&set, &got);
    __atomic_store_n(&gate, 1, __ATOMIC_SEQ_CST);
    syscall(SYS_futex, &gate, FUTEX_WAKE_PRIVATE, 1 << 30, NULL, NULL, 0);
    for (long i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
    puts(right == (unsigned)count ? "ok" : "wrong");
    return right != (unsigned)count;
}
