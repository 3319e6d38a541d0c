/* A process whose first thread has exited while others run on, checks itself on SIGUSR1.
   usage: no_leader root|child; "child": it is a child, which its parent waits for.
   Prints "ready", then "ok" or what is different. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { STATUS = 7, USER = 1234, SLEEP_MS = 1500 };

static int failures;
#define CHECK(what, ...) do { if (!(what)) { failures++; printf("different: " __VA_ARGS__); putchar('\n'); } } while (0)

static struct shared {
    volatile int standing, go;
    volatile long slept_ms, slept, got;
} *shared;

static int data[2], blocked[2], counter, watcher;
static char *heap;
static pid_t own_tid;
static timer_t timer;

static char leader_state(char *name, int *user)
{
    char line[256], state = 0;
    FILE *file = fopen("/proc/self/status", "r");
    while (file && fgets(line, sizeof(line), file)) {
        sscanf(line, "Name: %31s", name);
        sscanf(line, "State: %c", &state);
        sscanf(line, "Uid: %d", user);
    }
    if (file)
        fclose(file);
    return state;
}

/* The last field; that of the process in /proc/self/stat can be another. */
static int leader_status(void)
{
    char path[64], line[1024] = "";
    snprintf(path, sizeof(path), "/proc/self/task/%d/stat", getpid());
    FILE *file = fopen(path, "r");
    char *last = file && fgets(line, sizeof(line), file) ? strrchr(line, ' ') : NULL;
    if (file)
        fclose(file);
    return last ? atoi(last) : -1;
}

static void *sleep_long(void *unused)
{
    struct timespec begin, end, span = {SLEEP_MS / 1000, SLEEP_MS % 1000 * 1000000L};
    clock_gettime(CLOCK_MONOTONIC, &begin);
    shared->standing++;
    shared->slept = 1 + nanosleep(&span, NULL);
    clock_gettime(CLOCK_MONOTONIC, &end);
    shared->slept_ms = (end.tv_sec - begin.tv_sec) * 1000 + (end.tv_nsec - begin.tv_nsec) / 1000000;
    return unused;
}

static void *read_blocked(void *unused)
{
    char word[8] = "";
    shared->standing++;
    shared->got = read(blocked[0], word, sizeof(word)) == 3 && !strcmp(word, "go");
    return unused;
}

static void check_all(void)
{
    char name[32] = "", word[8] = "";
    int user = -1;
    struct epoll_event event;
    struct itimerspec left;
    eventfd_t count = 0;
    CHECK(leader_state(name, &user) == 'Z', "the first thread lives again");
    CHECK(!strcmp(name, "first") && user == USER, "it is named %s, of user %d", name, user);
    CHECK(leader_status() == STATUS << 8, "the first thread has exited with %#x", leader_status());
    CHECK(getuid() == 0, "the other thread's user is %d", getuid());
    CHECK(syscall(SYS_gettid) == own_tid, "another thread");
    CHECK(!strcmp(heap, "kept"), "memory");
    CHECK(epoll_wait(watcher, &event, 1, 0) == 1 && event.data.u32 == 42, "the epoll");
    CHECK(read(data[0], word, 5) == 5 && !strcmp(word, "data"), "what was in the pipe");
    CHECK(!eventfd_read(counter, &count) && count == 3, "the eventfd");
    CHECK(syscall(SYS_personality, 0xffffffff) == -1 && errno == EDOM, "the filter of all threads");
    CHECK(!timer_gettime(timer, &left) && left.it_value.tv_sec > 3000, "the timer");
    CHECK(write(blocked[1], "go", 3) == 3, "a thread that reads");
    for (int i = 0; i < 10000 && (!shared->slept_ms || !shared->got); i++)
        usleep(1000);
    CHECK(shared->got, "a thread has not read what was written for it");
    CHECK(shared->slept == 1 && shared->slept_ms >= SLEEP_MS, "slept %ld ms", shared->slept_ms);
}

static void wait_for_usr1(void)
{
    sigset_t usr1;
    int number;
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    sigwait(&usr1, &number);
}

static void *run_on(void *is_root)
{
    char name[32];
    int user;
    own_tid = (pid_t)syscall(SYS_gettid);
    prctl(PR_SET_NAME, "other");
    while (leader_state(name, &user) != 'Z' || shared->standing < 2)
        usleep(1000);
    usleep(20000);
    if (is_root) {
        puts("ready");
        fflush(stdout);
        wait_for_usr1();
    } else {
        shared->standing++;
        while (!shared->go)
            usleep(1000);
    }
    check_all();
    if (!is_root && !failures) /* the last one: with which of both statuses the process ends is up to the kernel */
        syscall(SYS_exit, STATUS);
    if (!failures)
        puts("ok");
    exit(failures != 0);
}

static void confine(void)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_personality, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EDOM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof(filter) / sizeof(*filter), filter};
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program))
        perror("seccomp");
}

static void live_without_leader(int is_root)
{
    pthread_t thread;
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = 42};
    struct itimerspec hour = {.it_value.tv_sec = 3600};
    heap = strdup("kept");
    if (pipe(data) || pipe(blocked) || write(data[1], "data", 5) != 5)
        perror("pipe");
    counter = eventfd(3, 0);
    watcher = epoll_create1(0);
    epoll_ctl(watcher, EPOLL_CTL_ADD, data[0], &event);
    timer_create(CLOCK_MONOTONIC, NULL, &timer);
    timer_settime(timer, 0, &hour, NULL);
    pthread_create(&thread, NULL, sleep_long, NULL);
    pthread_create(&thread, NULL, read_blocked, NULL);
    pthread_create(&thread, NULL, run_on, is_root ? &thread : NULL);
    confine();
    prctl(PR_SET_NAME, "first");
    syscall(SYS_setresuid, USER, USER, USER); /* of this thread alone */
    syscall(SYS_exit, STATUS);
}

int main(int argc, char **argv)
{
    sigset_t usr1;
    int status = 0;
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &usr1, NULL);
    shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (argc < 2 || !strcmp(argv[1], "root"))
        live_without_leader(1);
    pid_t child = fork();
    if (!child)
        live_without_leader(0);
    while (shared->standing < 3)
        usleep(1000);
    puts("ready");
    fflush(stdout);
    wait_for_usr1();
    CHECK(waitpid(child, &status, WNOHANG) == 0, "the child has ended");
    shared->go = 1;
    CHECK(waitpid(child, &status, 0) == child && status == STATUS << 8, "it ended with %#x", status);
    if (!failures)
        puts("ok");
    return failures != 0;
}
