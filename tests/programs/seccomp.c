/* A program that is confined by seccomp filters, and checks that they are in force, no less and no more.
   usage: seccomp KIND. Prints "ready", waits; SIGUSR1: checks, prints "ok" and ends.
     errno     allows what it needs, all else fails; getppid by a second filter with an errno of its own
     kill      getppid kills
     trap      getppid sends SIGSYS to a handler
     root      set by root without no_new_privs, and then another user
     threads   one filter for all threads, another for each of two
     sleep     sleeps for 3 s (or as many as a second argument says), and restart_syscall is allowed
     busy      kills at all but what it needs and a checkpoint does, and makes many short sleeps
     no-restart, no-munmap, no-sigprocmask, no-mmap: the call named kills, and it sleeps
     without-munmap, without-sigprocmask, without-mmap: the same, and it makes short sleeps until it is told
     epoll     waits in epoll_wait with a timeout, and epoll_pwait2 is forbidden
     strict    SECCOMP_MODE_STRICT, reads its input
     strict-child  a child in strict mode, which reads, too; when it is told to it makes a call that is its end
     listener  with SECCOMP_FILTER_FLAG_NEW_LISTENER */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CHECK(x, ...) do { if (!(x)) { printf("wrong: " __VA_ARGS__); printf("\n"); fflush(stdout); _exit(1); } } while (0)
#define LENGTH(a) (sizeof(a) / sizeof(*(a)))

static volatile sig_atomic_t told, trapped;
static pthread_barrier_t installed, go;

static void on_usr1(int signal) { (void)signal; told = 1; }
static void on_sys(int signal, siginfo_t *info, void *context)
{
    (void)signal, (void)context;
    trapped = info->si_syscall;
}

/* Calls in `numbers` are answered by `then`, all others by `otherwise`. */
static long answer(unsigned flags, const int *numbers, size_t count, unsigned then, unsigned otherwise)
{
    struct sock_filter filter[64];
    size_t n = 0;
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
    filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0);
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (size_t i = 0; i < count; i++)
        filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)numbers[i], (unsigned char)(count - i), 0);
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, otherwise);
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, then);
    struct sock_fprog program = {(unsigned short)n, filter};
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
}

static void forbid(int number, unsigned with)
{
    CHECK(answer(0, &number, 1, with, SECCOMP_RET_ALLOW) == 0, "seccomp: %s", strerror(errno));
}

static void wait_until_told(void)
{
    sigset_t blocked, before;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    sigprocmask(SIG_BLOCK, &blocked, &before);
    printf("ready\n");
    fflush(stdout);
    while (!told)
        sigsuspend(&before);
    sigprocmask(SIG_SETMASK, &before, NULL);
}

static int fails_with(long number) { return syscall(number) == -1 ? errno : 0; }

static void *confined_thread(void *of)
{
    int own = *(int *)of;
    forbid(own, SECCOMP_RET_ERRNO | 70);
    pthread_barrier_wait(&installed);
    pthread_barrier_wait(&go);
    CHECK(fails_with(own) == 70, "the thread's own filter");
    CHECK(fails_with(SYS_getppid) == 71, "the common filter in a thread");
    CHECK(fails_with(own == SYS_getuid ? SYS_getgid : SYS_getuid) == 0, "the other thread's filter");
    return NULL;
}

static void threads(void)
{
    int number = SYS_getppid, own[2] = {SYS_getuid, SYS_getgid};
    pthread_t thread[2];
    CHECK(answer(SECCOMP_FILTER_FLAG_TSYNC, &number, 1, SECCOMP_RET_ERRNO | 71, SECCOMP_RET_ALLOW) == 0, "seccomp");
    pthread_barrier_init(&installed, NULL, 3);
    pthread_barrier_init(&go, NULL, 3);
    for (int i = 0; i < 2; i++)
        pthread_create(&thread[i], NULL, confined_thread, &own[i]);
    pthread_barrier_wait(&installed);
    wait_until_told();
    CHECK(fails_with(SYS_getppid) == 71 && !fails_with(SYS_getuid), "the leader's filter");
    pthread_barrier_wait(&go);
    for (int i = 0; i < 2; i++)
        pthread_join(thread[i], NULL);
    /* It is still the same filter in all: so one more can be given to all. */
    number = SYS_getpgrp;
    CHECK(answer(SECCOMP_FILTER_FLAG_TSYNC, &number, 1, SECCOMP_RET_ERRNO | 72, SECCOMP_RET_ALLOW) == 0, "TSYNC");
    CHECK(fails_with(SYS_getpgrp) == 72 && fails_with(SYS_getppid) == 71, "one more filter");
}

static void check_kill(void)
{
    int status;
    pid_t child = fork();
    if (child == 0) {
        syscall(SYS_getppid);
        _exit(0);
    }
    waitpid(child, &status, 0);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS, "getppid does not kill: %#x", (unsigned)status);
}

static void sleep_for(int number, const char *seconds)
{
    struct timespec before, after, asked = {atoi(seconds), 0};
    if (number >= 0)
        forbid(number, SECCOMP_RET_KILL_PROCESS);
    clock_gettime(CLOCK_MONOTONIC, &before);
    printf("ready\n");
    fflush(stdout);
    CHECK(nanosleep(&asked, NULL) == 0, "nanosleep: %s", strerror(errno));
    clock_gettime(CLOCK_MONOTONIC, &after);
    double took = (double)(after.tv_sec - before.tv_sec) + (double)(after.tv_nsec - before.tv_nsec) / 1e9;
    CHECK(took >= (double)asked.tv_sec, "slept for %f s", took);
}

static void sleep_until_told(int number)
{
    struct timespec moment = {0, 50000000};
    printf("ready\n");
    fflush(stdout);
    forbid(number, SECCOMP_RET_KILL_PROCESS);
    while (!told)
        CHECK(clock_nanosleep(CLOCK_MONOTONIC, 0, &moment, NULL) == 0 || told, "a sleep was cut short");
}

static void handle(int number)
{
    (void)number;
}

/* Strict mode allows what it allowed, a handler's return too, and kills for another call. */
static void strict_child(void)
{
    int in[2], out[2], status;
    char letter;
    struct sigaction action = {.sa_handler = handle};
    CHECK(pipe(in) == 0 && pipe(out) == 0, "pipe: %s", strerror(errno));
    pid_t child = fork();
    if (child == 0) {
        sigset_t none;
        sigemptyset(&none);
        sigaction(SIGUSR1, &action, NULL);
        sigprocmask(SIG_SETMASK, &none, NULL);
        if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) != 0 || write(out[1], "s", 1) != 1)
            syscall(SYS_exit, 2);
        if (read(in[0], &letter, 1) != -1 || errno != EINTR || write(out[1], "x", 1) != 1)
            syscall(SYS_exit, 3);
        syscall(SYS_getppid);
        syscall(SYS_exit, 4);
    }
    CHECK(read(out[0], &letter, 1) == 1 && letter == 's', "strict");
    wait_until_told();
    CHECK(kill(child, SIGUSR1) == 0, "kill: %s", strerror(errno));
    CHECK(read(out[0], &letter, 1) == 1 && letter == 'x', "it did not write");
    CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "status %#x", status);
}

int main(int argc, char **argv)
{
    static const int needed[] = {
        SYS_read, SYS_write, SYS_mmap, SYS_munmap, SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_rt_sigsuspend, SYS_exit_group,
        SYS_restart_syscall, SYS_getppid, SYS_seccomp, SYS_fstat, SYS_prctl, SYS_newfstatat,
    };
    static const int busy[] = {
        SYS_write, SYS_clock_nanosleep, SYS_restart_syscall, SYS_rt_sigreturn, SYS_exit_group, SYS_fstat, SYS_newfstatat, SYS_getrandom,
        /* the way back of livecr's engine, and what a checkpoint asks */
        SYS_munmap, SYS_rt_sigprocmask, SYS_mmap, SYS_sigaltstack, SYS_prctl, SYS_getitimer, SYS_rt_sigaction, SYS_brk,
        SYS_modify_ldt, SYS_arch_prctl,
    };
    const char *kind = argc > 1 ? argv[1] : "", *seconds = argc > 2 ? argv[2] : "3";
    sigaction(SIGUSR1, &(struct sigaction){.sa_handler = on_usr1}, NULL);
    sigaction(SIGSYS, &(struct sigaction){.sa_sigaction = on_sys, .sa_flags = SA_SIGINFO}, NULL);
    if (strcmp(kind, "root"))
        CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "no_new_privs");
    if (!strcmp(kind, "errno")) {
        forbid(SYS_getppid, SECCOMP_RET_ERRNO | 77);
        CHECK(answer(SECCOMP_FILTER_FLAG_LOG, needed, LENGTH(needed), SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO | 78) == 0, "seccomp");
        wait_until_told();
        CHECK(fails_with(SYS_getppid) == 77 && fails_with(SYS_getuid) == 78, "%d, %d", fails_with(SYS_getppid), fails_with(SYS_getuid));
    } else if (!strcmp(kind, "kill")) {
        forbid(SYS_getppid, SECCOMP_RET_KILL_PROCESS);
        wait_until_told();
        check_kill();
    } else if (!strcmp(kind, "trap")) {
        forbid(SYS_getppid, SECCOMP_RET_TRAP);
        wait_until_told();
        syscall(SYS_getppid);
        CHECK(trapped == SYS_getppid, "no SIGSYS");
    } else if (!strcmp(kind, "root")) {
        forbid(SYS_getppid, SECCOMP_RET_ERRNO | 76);
        CHECK(setresgid(1234, 1234, 1234) == 0 && setresuid(1234, 1234, 1234) == 0, "setresuid");
        wait_until_told();
        CHECK(fails_with(SYS_getppid) == 76 && getuid() == 1234, "filter or user");
        CHECK(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 0, "no_new_privs");
    } else if (!strcmp(kind, "threads")) {
        threads();
    } else if (!strcmp(kind, "sleep")) {
        forbid(SYS_getppid, SECCOMP_RET_KILL_PROCESS);
        sleep_for(-1, seconds);
    } else if (!strcmp(kind, "busy")) {
        struct timespec moment = {0, 1000000};
        CHECK(answer(0, busy, LENGTH(busy), SECCOMP_RET_ALLOW, SECCOMP_RET_KILL_PROCESS) == 0, "seccomp");
        printf("ready\n");
        fflush(stdout);
        while (!told)
            CHECK(clock_nanosleep(CLOCK_MONOTONIC, 0, &moment, NULL) == 0 || told, "a sleep was cut short");
    } else if (!strcmp(kind, "no-restart")) {
        sleep_for(SYS_restart_syscall, seconds);
    } else if (!strcmp(kind, "no-munmap")) {
        sleep_for(SYS_munmap, seconds);
    } else if (!strcmp(kind, "no-sigprocmask")) {
        sleep_for(SYS_rt_sigprocmask, seconds);
    } else if (!strcmp(kind, "no-mmap")) {
        sleep_for(SYS_mmap, seconds);
    } else if (!strcmp(kind, "without-munmap")) {
        sleep_until_told(SYS_munmap);
    } else if (!strcmp(kind, "without-sigprocmask")) {
        sleep_until_told(SYS_rt_sigprocmask);
    } else if (!strcmp(kind, "without-mmap")) {
        sleep_until_told(SYS_mmap);
    } else if (!strcmp(kind, "epoll")) {
        struct epoll_event event;
        int fd = epoll_create1(EPOLL_CLOEXEC);
        forbid(SYS_epoll_pwait2, SECCOMP_RET_KILL_PROCESS);
        printf("ready\n");
        fflush(stdout);
        CHECK(syscall(SYS_epoll_wait, fd, &event, 1, 1000 * atoi(seconds)) == 0, "epoll_wait: %s", strerror(errno));
    } else if (!strcmp(kind, "strict")) {
        char letter;
        printf("ready\n");
        fflush(stdout);
        CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) == 0, "strict");
        syscall(SYS_exit, read(0, &letter, 1) < 0);
    } else if (!strcmp(kind, "strict-child")) {
        strict_child();
    } else if (!strcmp(kind, "listener")) {
        int number = SYS_getppid;
        CHECK(answer(SECCOMP_FILTER_FLAG_NEW_LISTENER, &number, 1, SECCOMP_RET_USER_NOTIF, SECCOMP_RET_ALLOW) >= 0, "seccomp");
        wait_until_told();
    } else {
        CHECK(0, "usage");
    }
    printf("ok\n");
    return 0;
}
