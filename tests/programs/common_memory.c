/* Processes with one memory (CLONE_VM without CLONE_THREAD) that check themselves on SIGUSR1.
   usage: common_memory KIND; prints "ready", then "ok" or what is different. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 8, STACK = 1 << 16, KCMP_VM = 1, KCMP_FILES, KCMP_FS, KCMP_SIGHAND };

static int failures;
#define CHECK(what, ...) do { if (!(what)) { failures++; printf("different: " __VA_ARGS__); putchar('\n'); } } while (0)

static char stacks[2 * MOST][STACK] __attribute__((aligned(16)));
static volatile int standing, go, woken, seen[MOST], waited_ms[MOST], asked_ms[MOST];
static volatile pid_t pids[MOST];
static char *common_page;
static int pipes[2];

static void count(volatile int *what)
{
    __atomic_add_fetch(what, 1, __ATOMIC_SEQ_CST);
}

static void until(volatile int *what, int value)
{
    while (*what < value)
        usleep(1000);
}

static pid_t start(int place, int flags, int (*run)(void *))
{
    pids[place] = clone(run, stacks[place] + STACK, flags | SIGCHLD, (void *)(long)place);
    if (pids[place] < 0)
        perror("clone");
    return pids[place];
}

static void ready(void)
{
    sigset_t usr1;
    int number;
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    puts("ready");
    fflush(stdout);
    sigwait(&usr1, &number);
    go = 1;
}

static void expect_end(pid_t pid)
{
    int status = 0;
    CHECK(waitpid(pid, &status, 0) == pid && status == 0, "a child ended with %#x", status);
}

static int is_common(pid_t one, pid_t other, int what)
{
    return syscall(SYS_kcmp, one, other, what, 0, 0) == 0;
}

static void check_common(pid_t one, pid_t other, int flags)
{
    CHECK(is_common(one, other, KCMP_VM) == !!(flags & CLONE_VM), "memory of %d and %d", one, other);
    CHECK(is_common(one, other, KCMP_FILES) == !!(flags & CLONE_FILES), "descriptors");
    CHECK(is_common(one, other, KCMP_FS) == !!(flags & CLONE_FS), "directories");
    CHECK(is_common(one, other, KCMP_SIGHAND) == !!(flags & CLONE_SIGHAND), "handlers");
}

/* -- one child, with whatever else it has in common ---------------------------------------------------------- */

static void handler(int number)
{
    (void)number;
    count(&woken);
}

static int child(void *place)
{
    struct sigaction action = {.sa_handler = handler};
    char letter = 0;
    count(&standing);
    if (read(pipes[0], &letter, 1) != 1 || letter != 'x') /* the other end is its parent's */
        return 1;
    until(&go, 1);
    common_page[1]++;
    sigaction(SIGUSR2, &action, NULL);
    if (chdir("/usr") || close(70) || signal(SIGHUP, SIG_DFL) == SIG_ERR)
        return 2;
    seen[(long)place] = getpid();
    return 0;
}

static void one(int flags)
{
    struct sigaction told;
    char directory[64];
    signal(SIGHUP, SIG_IGN);
    if (chdir("/tmp") || dup2(0, 70) < 0)
        exit(2);
    start(0, flags, child);
    until(&standing, 1);
    ready();
    check_common(getpid(), pids[0], flags);
    CHECK(write(pipes[1], "x", 1) == 1, "the pipe");
    expect_end(pids[0]);
    CHECK(common_page[1] == 1, "what it wrote into the memory");
    CHECK(seen[0] == pids[0], "its number was %d", seen[0]);
    sigaction(SIGUSR2, NULL, &told);
    CHECK((told.sa_handler == handler) == !!(flags & CLONE_SIGHAND), "the handler it has set");
    sigaction(SIGHUP, NULL, &told);
    CHECK((told.sa_handler == SIG_DFL) == !!(flags & CLONE_SIGHAND), "the action of SIGHUP");
    CHECK((fcntl(70, F_GETFD) == -1) == !!(flags & CLONE_FILES), "descriptor 70");
    CHECK(getcwd(directory, sizeof directory) && !strcmp(directory, flags & CLONE_FS ? "/usr" : "/tmp"),
          "directory %s", directory);
}

static void memory(void) { one(CLONE_VM); }
static void handlers(void) { one(CLONE_VM | CLONE_SIGHAND); }
static void all(void) { one(CLONE_VM | CLONE_SIGHAND | CLONE_FILES | CLONE_FS); }
static void files(void) { one(CLONE_VM | CLONE_FILES); }

/* -- of children and grandchildren, and one with a copy ------------------------------------------------------- */

static int grandchild(void *place)
{
    count(&standing);
    until(&go, 1);
    common_page[(long)place]++;
    return 0;
}

static int parent(void *place)
{
    pid_t copy, next;
    int status;
    (void)place;
    common_page[3] = 'p';
    if (!(copy = fork())) {
        volatile char *mine = common_page;
        mine[4] = 'c';
        kill(getppid(), SIGCONT); /* is ignored */
        while (getppid() == pids[1] && mine[5] != 'x') {
            if (read(pipes[0], (char *)mine + 5, 1) != 1)
                _exit(1);
        }
        _exit(mine[3] == 'p' && mine[4] == 'c' ? 0 : 2);
    }
    pids[3] = copy;
    next = start(2, CLONE_VM, grandchild);
    count(&standing);
    if (waitpid(next, &status, 0) != next || status)
        return 1;
    if (waitpid(copy, &status, 0) != copy || status)
        return 2;
    return 0;
}

static void nested(void)
{
    start(1, CLONE_VM | CLONE_FS, parent);
    start(0, CLONE_VM, grandchild);
    until(&standing, 3);
    ready();
    for (int i = 0; i < 3; i++)
        check_common(getpid(), pids[i], CLONE_VM | (i == 1 ? CLONE_FS : 0));
    check_common(getpid(), pids[3], 0);
    CHECK(write(pipes[1], "x", 1) == 1, "the pipe");
    expect_end(pids[0]);
    expect_end(pids[1]);
    CHECK(common_page[0] == 1 && common_page[2] == 1, "what they wrote: %d %d", common_page[0], common_page[2]);
    CHECK(common_page[3] == 'p' && common_page[4] != 'c', "the copy");
}

/* -- each in a wait of its own, with a timeout ---------------------------------------------------------------- */

static int waits(void *place)
{
    int i = (int)(long)place, got;
    struct timespec begin, end, span;
    struct epoll_event event;
    int watcher = epoll_create1(0);
    clock_gettime(CLOCK_MONOTONIC, &begin);
    count(&standing);
    if (i % 2) {
        got = epoll_wait(watcher, &event, 1, asked_ms[i]);
    } else {
        span = (struct timespec){asked_ms[i] / 1000, asked_ms[i] % 1000 * 1000000L};
        got = nanosleep(&span, NULL);
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    waited_ms[i] = (end.tv_sec - begin.tv_sec) * 1000 + (end.tv_nsec - begin.tv_nsec) / 1000000;
    return got != 0;
}

static void waiting(void)
{
    for (int i = 0; i < MOST; i++) {
        asked_ms[i] = i < MOST / 2 ? 800 : 3000 + 100 * i;
        start(i, CLONE_VM | (i & 2 ? CLONE_SIGHAND | CLONE_FILES : 0), waits);
    }
    until(&standing, MOST);
    ready();
    for (int i = 0; i < MOST; i++) {
        expect_end(pids[i]);
        CHECK(waited_ms[i] >= asked_ms[i], "%d waited %d ms, not %d", i, waited_ms[i], asked_ms[i]);
    }
}

/* -- a child with threads, and what waits in a futex of the common memory -------------------------------------- */

static volatile int word;

static int thread(void *place)
{
    count(&standing);
    while (word != 1)
        syscall(SYS_futex, &word, FUTEX_WAIT, 0, NULL, NULL, 0);
    count(&seen[(long)place]);
    syscall(SYS_exit, 0);
    return 0;
}

static int has_threads(void *place)
{
    const int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
    clone(thread, stacks[MOST + 1] + STACK, flags, (void *)1L);
    clone(thread, stacks[MOST + 2] + STACK, flags, (void *)2L);
    count(&standing);
    while (word != 1)
        syscall(SYS_futex, &word, FUTEX_WAIT, 0, NULL, NULL, 0);
    until(&seen[1], 1);
    until(&seen[2], 1);
    count(&seen[(long)place]);
    return 0;
}

static void threads(void)
{
    start(3, CLONE_VM, has_threads);
    until(&standing, 3);
    ready();
    word = 1;
    syscall(SYS_futex, &word, FUTEX_WAKE, 9, NULL, NULL, 0); /* who is on its way into the call sees the word */
    expect_end(pids[3]);
    CHECK(seen[1] == 1 && seen[2] == 1 && seen[3] == 1, "the threads");
}

/* -- not of its parent, but of its brother --------------------------------------------------------------------- */

static int pauses(void *unused)
{
    for (;;)
        pause();
    return unused != NULL;
}

static void brother(void)
{
    pid_t first = fork(), second = 0;
    if (!first) {
        second = clone(pauses, stacks[0] + STACK, CLONE_VM | CLONE_PARENT | SIGCHLD, NULL);
        if (write(pipes[1], &second, sizeof second) == sizeof second)
            pauses(NULL);
        _exit(1);
    }
    CHECK(read(pipes[0], &second, sizeof second) == sizeof second, "the pipe");
    ready();
    kill(first, SIGKILL);
    kill(second, SIGKILL);
}

/* -- the parent waits until the child ends (vfork) ------------------------------------------------------------- */

static int of_vfork(void *place)
{
    (void)place;
    ready();
    common_page[0]++;
    return 0;
}

static void vforked(void)
{
    start(0, CLONE_VM | CLONE_VFORK, of_vfork);
    expect_end(pids[0]);
    CHECK(common_page[0] == 1, "what it wrote into the memory");
}

/* -- stopped, and one whose first thread has exited ------------------------------------------------------------- */

static int stops(void *place)
{
    count(&standing);
    until(&go, 1);
    count(&seen[(long)place]);
    return 0;
}

static int ends_first(void *place)
{
    const int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
    clone(grandchild, stacks[MOST + 1] + STACK, flags, place);
    syscall(SYS_exit, 0);
    return 0;
}

static void odd(void)
{
    int status;
    start(0, CLONE_VM | CLONE_SIGHAND, stops);
    start(1, CLONE_VM, ends_first);
    until(&standing, 2);
    kill(pids[0], SIGSTOP);
    CHECK(waitpid(pids[0], &status, WUNTRACED) == pids[0] && WIFSTOPPED(status), "it does not stop");
    ready();
    CHECK(waitpid(pids[0], &status, WUNTRACED | WNOHANG) == 0, "told of its stop again");
    usleep(50000);
    CHECK(!seen[0], "it is not stopped");
    kill(pids[0], SIGCONT);
    expect_end(pids[0]);
    expect_end(pids[1]);
    CHECK(seen[0] == 1 && common_page[1] == 1, "what they wrote");
}

static const struct { const char *name; void (*run)(void); } kinds[] = {
    {"memory", memory}, {"handlers", handlers}, {"files", files}, {"all", all}, {"nested", nested},
    {"waiting", waiting}, {"threads", threads}, {"brother", brother}, {"vfork", vforked}, {"odd", odd},
};

int main(int argc, char **argv)
{
    sigset_t usr1;
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    sigprocmask(SIG_BLOCK, &usr1, NULL);
    common_page = aligned_alloc(4096, 1 << 20);
    memset(common_page, 0, 1 << 20);
    if (pipe(pipes))
        return 2;
    for (unsigned i = 0; argc > 1 && i < sizeof kinds / sizeof *kinds; i++) {
        if (!strcmp(argv[1], kinds[i].name)) {
            kinds[i].run();
            if (!failures)
                puts("ok");
            return failures != 0;
        }
    }
    fprintf(stderr, "usage: common_memory KIND\n");
    return 2;
}
