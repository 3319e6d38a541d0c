/* Settings of a process and of two of its threads, each looked at again after SIGUSR1.
   usage: settings KIND. Prints "ready"; then "ok", or what is not as it was.
     prctl      of the process and of each task: reaper, huge pages, dumpable, no memory to write and execute, death
                signal, TSC, machine checks, speculation, timer slack, name, keepcaps, merged pages; what the OOM killer
                thinks of it, what is in its core dumps, and its limits
     scheduling policies, nice values, affinities, I/O priorities of each task
     dispatch   PR_SET_SYSCALL_USER_DISPATCH is on, and calls are allowed: then one that is not comes back as SIGSYS
     inclusive  the same, of a range of code only (PR_SYS_DISPATCH_INCLUSIVE_ON, since 6.17)
     blocked    no calls are allowed until the signal comes, which it waits for in its own code */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CHECK(x, ...) do { if (!(x)) { printf("wrong: " __VA_ARGS__); printf("\n"); fflush(stdout); _exit(1); } } while (0)
#define MOST 48

struct attributes { /* struct sched_attr of <linux/sched/types.h> */
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
    uint32_t util_min, util_max;
};

struct seen {
    const char *what;
    long result;
    int written;
};

static int scheduling;
static pthread_barrier_t set, go;

static void ask(struct seen *seen, const char *what, int option, int argument, int *to)
{
    seen->what = what;
    seen->written = -1;
    seen->result = prctl(option, to ? (unsigned long)&seen->written : (unsigned long)argument, 0, 0, 0);
}

/* Dumpable is 0, so /proc/self belongs to root; which the program is. */
static long number_in(const char *path, int base)
{
    char text[32] = "";
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    CHECK(fd >= 0 && read(fd, text, sizeof text - 1) > 0, "%s: %s", path, strerror(errno));
    close(fd);
    return strtol(text, NULL, base);
}

static void write_to(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    CHECK(fd >= 0 && write(fd, text, strlen(text)) > 0, "%s: %s", path, strerror(errno));
    close(fd);
}

static void change_all(void)
{
    struct rlimit files = {300, 400}, stack = {4 << 20, 8 << 20}, none = {0, 0};
    CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0 && prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0, "reaper, huge pages");
    CHECK(prctl(PR_SET_DUMPABLE, 0) == 0 && prctl(PR_SET_KEEPCAPS, 1) == 0, "dumpable, keepcaps");
    CHECK(setrlimit(RLIMIT_NOFILE, &files) == 0 && setrlimit(RLIMIT_STACK, &stack) == 0, "limits");
    CHECK(setrlimit(RLIMIT_CORE, &none) == 0 && setrlimit(RLIMIT_MEMLOCK, &none) == 0, "limits");
    write_to("/proc/self/oom_score_adj", "567");
    write_to("/proc/self/coredump_filter", "0x7b");
    prctl(65, 1, 0, 0, 0); /* PR_SET_MDWE, since 6.3 */
    prctl(67, 1, 0, 0, 0); /* PR_SET_MEMORY_MERGE, since 6.4, if the kernel has KSM */
}

static int look(struct seen *seen)
{
    int n = 0, to;
    cpu_set_t cpus;
    struct attributes attributes = {0};
    if (!scheduling) {
        ask(&seen[n++], "reaper", 37, 0, &to);
        ask(&seen[n++], "death signal", 2, 0, &to);
        ask(&seen[n++], "TSC", 25, 0, &to);
        ask(&seen[n++], "dumpable", 3, 0, NULL);
        ask(&seen[n++], "keepcaps", 7, 0, NULL);
        ask(&seen[n++], "timer slack", 30, 0, NULL);
        ask(&seen[n++], "machine checks", 34, 0, NULL);
        ask(&seen[n++], "huge pages", 42, 0, NULL);
        ask(&seen[n++], "write and execute", 66, 0, NULL);
        ask(&seen[n++], "store bypass", 52, 0, NULL);
        ask(&seen[n++], "indirect branches", 52, 1, NULL);
        ask(&seen[n++], "L1D flush", 52, 2, NULL);
        ask(&seen[n++], "merged pages", 68, 0, NULL);
        seen[n++] = (struct seen){"CPUID", syscall(SYS_arch_prctl, 0x1011, 0), 0};
        seen[n++] = (struct seen){"oom_score_adj", number_in("/proc/self/oom_score_adj", 10), 0};
        seen[n++] = (struct seen){"coredump_filter", number_in("/proc/self/coredump_filter", 16), 0};
        for (int which = 0; which < RLIM_NLIMITS; which++) {
            struct rlimit limit;
            getrlimit((__rlimit_resource_t)which, &limit);
            seen[n++] = (struct seen){"limit", (long)limit.rlim_cur, (int)limit.rlim_max};
        }
        return n;
    }
    CHECK(syscall(SYS_sched_getattr, 0, &attributes, sizeof attributes, 0) == 0, "sched_getattr");
    CPU_ZERO(&cpus);
    sched_getaffinity(0, sizeof cpus, &cpus);
    seen[n++] = (struct seen){"policy", attributes.policy, 0};
    seen[n++] = (struct seen){"flags", (long)attributes.flags, 0};
    seen[n++] = (struct seen){"priority", attributes.priority, attributes.nice};
    seen[n++] = (struct seen){"runtime", (long)attributes.runtime, 0};
    seen[n++] = (struct seen){"affinity", CPU_COUNT(&cpus), CPU_ISSET(0, &cpus)};
    seen[n++] = (struct seen){"I/O priority", syscall(SYS_ioprio_get, 1, 0), 0};
    return n;
}

static void compare(const char *who, const struct seen *before, int count)
{
    struct seen after[MOST];
    look(after);
    for (int i = 0; i < count; i++)
        CHECK(after[i].result == before[i].result && after[i].written == before[i].written, "%s, %s: %ld %d, was %ld %d", who,
              before[i].what, after[i].result, after[i].written, before[i].result, before[i].written);
}

static void change(int number)
{
    if (scheduling) {
        static const int policies[] = {SCHED_OTHER, SCHED_BATCH, SCHED_OTHER};
        struct attributes wanted = {.size = sizeof wanted, .policy = (uint32_t)policies[number], .nice = number + 1,
                                    .flags = number == 2, .runtime = number ? 2000000 : 0};
        cpu_set_t cpus;
        CPU_ZERO(&cpus);
        CPU_SET(0, &cpus);
        CHECK(syscall(SYS_sched_setattr, 0, &wanted, 0) == 0, "sched_setattr: %s", strerror(errno));
        CHECK(number != 1 || sched_setaffinity(0, sizeof cpus, &cpus) == 0, "sched_setaffinity");
        CHECK(syscall(SYS_ioprio_set, 1, 0, 2 << 13 | (3 + number)) == 0, "ioprio_set"); /* best effort */
        return;
    }
    CHECK(prctl(PR_SET_PDEATHSIG, number ? SIGUSR2 + number : 0) == 0, "death signal");
    CHECK(prctl(PR_SET_TIMERSLACK, 60000 + number) == 0, "timer slack");
    CHECK(prctl(33, 1, number ? number - 1 : 0, 0, 0) == 0, "machine checks");
    if (number == 1)
        CHECK(prctl(26, 2) == 0, "TSC");
    prctl(53, number % 2, 4, 0, 0); /* not on every CPU */
}

static void *other(void *argument)
{
    struct seen before[MOST];
    char name[16], who[16];
    int number = *(int *)argument;
    change(number);
    snprintf(who, sizeof who, "thread %d", number);
    prctl(PR_SET_NAME, who);
    int count = look(before);
    pthread_barrier_wait(&set);
    pthread_barrier_wait(&go);
    compare(who, before, count);
    prctl(PR_GET_NAME, name);
    CHECK(!strcmp(name, who), "name %s", name);
    return NULL;
}

static volatile char selector;
static volatile sig_atomic_t came_back, told;
static int is_dispatched;

static void on_sys(int number, siginfo_t *info, void *context)
{
    (void)number, (void)context;
    selector = 0; /* allow: the handler has to return */
    came_back = info->si_syscall;
}

static void on_usr1(int number)
{
    (void)number;
    selector = 0;
    told = 1;
}

static void dispatch(int inclusive)
{
    struct sigaction action = {.sa_sigaction = on_sys, .sa_flags = SA_SIGINFO};
    sigaction(SIGSYS, &action, NULL);
    if (inclusive && prctl(59, 2, 4096, 0x7fff00000000, &selector) != 0) {
        printf("not here\n");
        exit(77);
    }
    CHECK(inclusive || prctl(59, 1, 0, 0, &selector) == 0, "dispatch: %s", strerror(errno));
}

static void call_is_dispatched(void)
{
    long number = SYS_getppid;
    selector = 1;
    __asm__ volatile("syscall" : "+a"(number) : : "rcx", "r11", "memory");
    selector = 0;
    CHECK(came_back == SYS_getppid, "a call was not dispatched: %ld", number);
}

static int blocked(void)
{
    sigset_t none;
    sigemptyset(&none);
    signal(SIGUSR1, on_usr1);
    pthread_sigmask(SIG_SETMASK, &none, NULL);
    printf("ready\n");
    fflush(stdout);
    CHECK(prctl(59, 1, 0, 0, &selector) == 0, "dispatch: %s", strerror(errno));
    selector = 1;
    while (!told)
        ;
    printf("ok\n");
    return 0;
}

int main(int argc, char **argv)
{
    struct seen before[MOST];
    pthread_t threads[2];
    int numbers[] = {1, 2}, got, count;
    sigset_t usr1;
    CHECK(argc >= 2, "usage");
    scheduling = !strcmp(argv[1], "scheduling");
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &usr1, NULL);
    pthread_barrier_init(&set, NULL, 3);
    pthread_barrier_init(&go, NULL, 3);
    change(0);
    if (!strcmp(argv[1], "prctl"))
        change_all();
    if (!strcmp(argv[1], "blocked"))
        return blocked();
    is_dispatched = !strcmp(argv[1], "dispatch") || !strcmp(argv[1], "inclusive");
    if (is_dispatched)
        dispatch(!strcmp(argv[1], "inclusive"));
    int no_execute = !scheduling && prctl(65, 1, 0, 0, 0) == 0; /* 6.3 */
    for (int i = 0; i < 2; i++)
        pthread_create(&threads[i], NULL, other, &numbers[i]);
    pthread_barrier_wait(&set);
    count = look(before);
    printf("ready\n");
    fflush(stdout);
    sigwait(&usr1, &got);
    compare("process", before, count);
    if (is_dispatched)
        call_is_dispatched();
    pthread_barrier_wait(&go);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    if (no_execute) {
        void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(mprotect(page, 4096, PROT_READ | PROT_EXEC) < 0 && errno == EACCES, "memory becomes executable");
    }
    printf("ok\n");
    return 0;
}
