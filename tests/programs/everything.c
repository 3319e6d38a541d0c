/* build: -mavx
   Holds one of everything that a checkpoint has to keep, and checks itself when it gets SIGUSR1.
   usage: everything MEGABYTES DIRECTORY; prints "ready", then after SIGUSR1 "ok" or what is different. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <immintrin.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static int failures;
#define CHECK(what, ...) do { if (!(what)) { failures++; printf("different: " __VA_ARGS__); putchar('\n'); } } while (0)

static volatile sig_atomic_t go;
static void on_usr1(int s) { (void)s; go = 1; }

static uint64_t word(uint64_t i) { return i * 0x9E3779B97F4A7C15ull ^ (i >> 7); }

static char ymm_loaded;
#ifdef __i386__
#define VECTORS 8
#define EACH ".irp n,0,1,2,3,4,5,6,7\n"
#define CLOBBERED "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7"
#else
#define VECTORS 16
#define EACH ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
#define CLOBBERED "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", \
    "xmm12", "xmm13", "xmm14", "xmm15"
#endif

/* Spins with known values in all vector registers until `go`, then stores them: no call in between. */
static void spin_with_registers(uint64_t out[VECTORS][4], const uint64_t in[VECTORS][4])
{
    __asm__ volatile(
        EACH " vmovdqu \\n*32(%1), %%ymm\\n\n .endr\n"
        "movb $1, %3\n"
        "1: pause\n cmpl $0, %2\n je 1b\n"
        EACH " vmovdqu %%ymm\\n, \\n*32(%0)\n .endr\n"
        :: "r"(out), "r"(in), "m"(go), "m"(ymm_loaded)
        : "memory", CLOBBERED);
}

/* A mapping with almost nothing in it. */
#define SPARSE (sizeof(void *) == 8 ? 1ull << 42 : 1ull << 30)

int main(int argc, char **argv)
{
    if (argc != 3) return 2;
    size_t bytes = strtoull(argv[1], 0, 10) << 20;
    char path[4096];
    setvbuf(stdout, NULL, _IOLBF, 0);

    /* memory: a pattern, a hole, sparse gigabytes, protections, shared memory */
    uint64_t *memory = mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (size_t i = 0; i < bytes / 8; i++) memory[i] = word(i);
    char *sparse = mmap(0, SPARSE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(sparse != MAP_FAILED, "no sparse mapping: %m");
    sparse[SPARSE / 2] = 42;
    char *secret = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    strcpy(secret, "behind PROT_NONE");
    mprotect(secret, 4096, PROT_NONE);
    char *shared = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    strcpy(shared + 70000, "shared");

    /* descriptors: a deleted file, a FIFO and a pipe with data, an eventfd, a shared description, append */
    snprintf(path, sizeof path, "%s/deleted", argv[2]);
    int deleted = open(path, O_RDWR | O_CREAT | O_EXCL, 0640);
    CHECK(pwrite(deleted, "kept content", 12, 1 << 20) == 12, "pwrite: %m");
    lseek(deleted, 5, SEEK_SET);
    unlink(path);
    snprintf(path, sizeof path, "%s/fifo", argv[2]);
    mkfifo(path, 0600);
    int fifo = open(path, O_RDWR | O_NONBLOCK);
    CHECK(write(fifo, "in the fifo", 11) == 11, "fifo: %m");
    int ends[2];
    CHECK(pipe2(ends, O_CLOEXEC) == 0, "pipe: %m");
    CHECK(write(ends[1], "in the pipe", 11) == 11, "pipe: %m");
    int event = eventfd(0xFFFFFFFF, EFD_NONBLOCK | EFD_SEMAPHORE);
    uint64_t more = 7;
    CHECK(write(event, &more, 8) == 8, "eventfd: %m");
    snprintf(path, sizeof path, "%s/log", argv[2]);
    int file = open(path, O_RDWR | O_CREAT | O_APPEND, 0600);
    CHECK(write(file, "0123456789", 10) == 10, "log: %m");
    lseek(file, 3, SEEK_SET);
    int twin = dup2(file, 77);
    int directory = open(argv[2], O_RDONLY | O_DIRECTORY);
    int null = open("/dev/null", O_WRONLY), zero = open("/dev/zero", O_RDONLY);

    /* signals: blocked and pending, with a value */
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN + 3);
    sigaddset(&set, SIGUSR2);
    for (int i = 0; i < 4; i++) sigaddset(&set, SIGRTMIN + 4 + i);
    sigprocmask(SIG_BLOCK, &set, NULL);
    for (int i = 0; i < 3; i++) {
        union sigval value = {.sival_int = 100 + i};
        sigqueue(getpid(), SIGRTMIN + 3, value);
    }
    syscall(SYS_tgkill, getpid(), gettid(), SIGUSR2);

    /* four timers, with a gap in their ids, one that has overrun, and an interval timer */
    timer_t timers[4], gap;
    for (int i = 0; i < 4; i++) {
        struct sigevent sev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 4 + i, .sigev_value.sival_int = 70 + i};
        CHECK(timer_create(i == 3 ? CLOCK_BOOTTIME : CLOCK_MONOTONIC, &sev, &timers[i]) == 0, "timer_create: %m");
        if (i == 1) { timer_create(CLOCK_MONOTONIC, &sev, &gap); }
    }
    timer_delete(gap);
    struct itimerspec spec = {{0, 0}, {1000, 0}};
    timer_settime(timers[0], 0, &spec, NULL);
    spec = (struct itimerspec){{500, 0}, {2000, 500}};
    timer_settime(timers[1], 0, &spec, NULL);
    spec = (struct itimerspec){{0, 5000000}, {0, 5000000}};
    timer_settime(timers[2], 0, &spec, NULL);
    usleep(60000);
    siginfo_t got;
    sigset_t one;
    sigemptyset(&one);
    sigaddset(&one, SIGRTMIN + 6);
    CHECK(sigwaitinfo(&one, &got) == SIGRTMIN + 6, "no timer signal");
    int overrun = timer_getoverrun(timers[2]);
    CHECK(overrun > 5, "overrun %d", overrun);
    spec = (struct itimerspec){{3600, 0}, {0, 0}};
    timer_settime(timers[2], 0, &spec, NULL);
    struct itimerval itimer = {{0, 0}, {5000, 0}};
    setitimer(ITIMER_REAL, &itimer, NULL);

    /* what a process has as a whole */
    umask(027);
    CHECK(chdir(argv[2]) == 0, "chdir: %m");
    struct rlimit limit = {333, 500};
    setrlimit(RLIMIT_NOFILE, &limit);
    setpriority(PRIO_PROCESS, 0, 3);
    prctl(PR_SET_NAME, "every thing");
    prctl(PR_SET_TIMERSLACK, 123456);
    prctl(PR_SET_PDEATHSIG, SIGUSR2);
    prctl(PR_SET_DUMPABLE, 1);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    static char altstack[65536];
    stack_t alt = {.ss_sp = altstack, .ss_size = sizeof altstack};
    sigaltstack(&alt, NULL);
    struct sigaction action = {.sa_handler = on_usr1, .sa_flags = SA_ONSTACK};
    sigaddset(&action.sa_mask, SIGHUP);
    sigaction(SIGUSR1, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
    pid_t pid = getpid(), sid = getsid(0);

    uint64_t in[VECTORS][4], out[VECTORS][4];
    for (int i = 0; i < 4 * VECTORS; i++) in[i / 4][i % 4] = word(1000 + i);
    memset(out, 0, sizeof out);
    puts("ready");
    if (__builtin_cpu_supports("avx"))
        spin_with_registers(out, in);
    else
        while (!go) pause();

    if (__builtin_cpu_supports("avx")) CHECK(memcmp(in, out, sizeof in) == 0, "vector registers");
    for (size_t i = 0; i < bytes / 8; i++)
        if (memory[i] != word(i)) { CHECK(0, "memory at %zu", i); break; }
    CHECK(sparse[SPARSE / 2] == 42 && sparse[SPARSE / 4] == 0, "sparse memory");
    mprotect(secret, 4096, PROT_READ);
    CHECK(!strcmp(secret, "behind PROT_NONE"), "memory behind PROT_NONE");
    CHECK(!strcmp(shared + 70000, "shared"), "shared memory");

    char text[64] = {0};
    CHECK(lseek(deleted, 0, SEEK_CUR) == 5, "offset of the deleted file");
    CHECK(pread(deleted, text, 12, 1 << 20) == 12 && !memcmp(text, "kept content", 12), "content of the deleted file");
    struct stat st;
    fstat(deleted, &st);
    CHECK(st.st_nlink == 0 && (st.st_mode & 0777) == 0640, "links %d mode %o of the deleted file", (int)st.st_nlink, st.st_mode);
    CHECK(read(fifo, text, 64) == 11 && !memcmp(text, "in the fifo", 11), "the FIFO");
    CHECK(read(fifo, text, 64) == -1 && errno == EAGAIN, "the FIFO's end");
    CHECK(read(ends[0], text, 64) == 11 && !memcmp(text, "in the pipe", 11), "the pipe");
    CHECK(fcntl(ends[0], F_GETFD) == FD_CLOEXEC && fcntl(file, F_GETFD) == 0, "close-on-exec");
    uint64_t count;
    CHECK(read(event, &count, 8) == 8 && count == 1, "semaphore eventfd");
    CHECK(lseek(file, 0, SEEK_CUR) == 3, "offset");
    lseek(twin, 6, SEEK_SET);
    CHECK(lseek(file, 0, SEEK_CUR) == 6, "the shared description");
    CHECK(write(file, "x", 1) == 1 && lseek(file, 0, SEEK_CUR) == 11, "O_APPEND");
    CHECK(fstat(directory, &st) == 0 && S_ISDIR(st.st_mode), "the directory");
    CHECK(write(null, "x", 1) == 1 && read(zero, text, 1) == 1 && text[0] == 0, "devices");

    sigset_t pending;
    sigpending(&pending);
    CHECK(sigismember(&pending, SIGUSR2), "the pending private signal");
    sigemptyset(&one);
    sigaddset(&one, SIGRTMIN + 3);
    for (int i = 0; i < 3; i++) {
        int number = sigtimedwait(&one, &got, &(struct timespec){0, 0});
        CHECK(number == SIGRTMIN + 3 && got.si_value.sival_int == 100 + i && got.si_code == SI_QUEUE && got.si_pid == pid,
              "queued signal %d: %d value %d", i, number, got.si_value.sival_int);
    }
    CHECK(timer_gettime(timers[0], &spec) == 0 && spec.it_value.tv_sec >= 980 && spec.it_value.tv_sec < 1000, "timer 0: %ld", (long)spec.it_value.tv_sec);
    CHECK(timer_gettime(timers[1], &spec) == 0 && spec.it_value.tv_sec > 1900 && spec.it_interval.tv_sec == 500, "timer 1");
    CHECK(timer_gettime(timers[2], &spec) == 0 && spec.it_value.tv_sec == 0, "timer 2");
    CHECK(timer_gettime(timers[3], &spec) == 0 && spec.it_value.tv_sec == 0, "timer 3");
    getitimer(ITIMER_REAL, &itimer);
    CHECK(itimer.it_value.tv_sec > 4900 && itimer.it_value.tv_sec < 5000, "itimer");

    CHECK(umask(0) == 027, "umask");
    char cwd[4096];
    CHECK(getcwd(cwd, sizeof cwd) && !strcmp(cwd, argv[2]), "cwd %s", cwd);
    getrlimit(RLIMIT_NOFILE, &limit);
    CHECK(limit.rlim_cur == 333 && limit.rlim_max == 500, "rlimit");
    CHECK(getpriority(PRIO_PROCESS, 0) == 3, "nice");
    prctl(PR_GET_NAME, text);
    CHECK(!strcmp(text, "every thing"), "name");
    CHECK(prctl(PR_GET_TIMERSLACK) == 123456, "timer slack");
    int sig = 0;
    prctl(PR_GET_PDEATHSIG, &sig);
    CHECK(sig == SIGUSR2, "parent-death signal");
    CHECK(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1, "no_new_privs");
    sigaltstack(NULL, &alt);
    CHECK(alt.ss_sp == altstack && alt.ss_size == sizeof altstack && alt.ss_flags == 0, "altstack");
    sigaction(SIGUSR1, NULL, &action);
    CHECK(action.sa_handler == on_usr1 && sigismember(&action.sa_mask, SIGHUP), "action");
    sigaction(SIGPIPE, NULL, &action);
    CHECK(action.sa_handler == SIG_IGN, "ignored signal");
    CHECK(getpid() == pid && (sid != pid || getsid(0) == sid), "pid, session");
    puts(failures ? "failed" : "ok");
    return failures != 0;
}
