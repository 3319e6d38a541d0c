/* build: -mavx
   Checks itself all the time, in as many ways as a freeze could harm it: each thread is one story, and the first
   that notices something says so and ends the program with status 1.
   usage: selfcheck FILE [churn]; prints "ready". SIGUSR1: finish, print "ok". SIGRTMIN+1 sent by sigqueue(): count it and
   check that the values come in order. FILE gets the lines 0, 1, 2 ... ; `churn` also starts and ends threads. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/rseq.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t finish, signals_seen, signals_wrong;

#define FAIL(...) do { dprintf(1, "harmed: " __VA_ARGS__); dprintf(1, "\n"); _exit(1); } while (0)

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

/* -- time ----------------------------------------------------------------------------------------------------- */

#define MS 1000000ll
/* A wait that starts anew whenever it is disturbed would, with a disturbance every tenth of a second, hardly end. */
#define LATE_MS 400

/* What a busy machine, or a freeze, takes away from all threads alike, and so may make a wait late: by how much sleeps
   that are too short to be disturbed often were longer than that. */
#define TICK_MS 5
#define LONG_MS 20
static _Atomic int64_t lost_ns, ticks;

static void *ticker(void *unused)
{
    while (!finish) {
        int64_t began = now_ns();
        usleep(TICK_MS * 1000);
        int64_t took = now_ns() - began;
        if (took > LONG_MS * MS) atomic_fetch_add(&lost_ns, took - TICK_MS * MS);
        atomic_fetch_add(&ticks, 1);
    }
    return unused;
}

/* And what it takes away from this thread alone: how long it could run and had to wait for a CPU. */
static int64_t waited_ns(void)
{
    char text[128];
    long long waited = 0;
    int fd = open("/proc/thread-self/schedstat", O_RDONLY);
    if (fd < 0) return 0;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    text[n < 0 ? 0 : n] = 0;
    sscanf(text, "%*s %lld", &waited);
    return waited;
}

struct start { int64_t ns, lost_ns, waited_ns; };
static struct start start(void) { return (struct start){now_ns(), atomic_load(&lost_ns), waited_ns()}; }

static void check_time(const char *what, struct start began, int64_t wanted_ms)
{
    int64_t took = now_ns() - began.ns;
    if (took < wanted_ms * MS) FAIL("%s of %lld ms took only %lld us", what, (long long)wanted_ms, (long long)took / 1000);
    if (took <= (wanted_ms + LATE_MS) * MS) return;
    for (int64_t seen = atomic_load(&ticks); !finish && atomic_load(&ticks) < seen + 2;)
        usleep(TICK_MS * 1000); /* the ticker may not have run yet since */
    int64_t lost = atomic_load(&lost_ns) - began.lost_ns, waited = waited_ns() - began.waited_ns;
    if (took > (wanted_ms + LATE_MS) * MS + lost + waited)
        FAIL("%s of %lld ms took %lld ms; lost to all: %lld ms, to it: %lld ms", what, (long long)wanted_ms,
             (long long)(took / MS), (long long)(lost / MS), (long long)(waited / MS));
}

static void *sleeper(void *unused)
{
    while (!finish) {
        struct start began = start();
        struct timespec t = {0, 700 * MS}, left; /* a kill leaves something in it, as any debugger does */
        if (nanosleep(&t, &left)) FAIL("nanosleep: %s", strerror(errno));
        check_time("nanosleep", began, 700);
    }
    return unused;
}

static void *absolute_sleeper(void *unused)
{
    while (!finish) {
        struct start began = start();
        int64_t until = began.ns + 300 * MS;
        struct timespec t = {until / 1000000000, until % 1000000000};
        int error = clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
        if (error) FAIL("clock_nanosleep: %s", strerror(error));
        check_time("clock_nanosleep", began, 300);
    }
    return unused;
}

static void *futex_sleeper(void *unused)
{
    uint32_t word = 5;
    while (!finish) {
        struct start began = start();
        struct timespec t = {0, 600 * MS};
        long result = syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 5, &t, NULL, 0);
        if (result != -1 || errno != ETIMEDOUT) FAIL("futex: %ld, %s", result, strerror(errno));
        check_time("futex", began, 600);
    }
    return unused;
}

static void *poller(void *unused)
{
    int ends[2];
    if (pipe(ends)) FAIL("pipe");
    while (!finish) {
        struct pollfd p = {ends[0], POLLIN, 0};
        struct start began = start();
        int result = poll(&p, 1, 500);
        if (result) FAIL("poll: %d, %s", result, strerror(errno));
        check_time("poll", began, 500);
    }
    return unused;
}

static void *selecter(void *unused)
{
    while (!finish) {
        struct start began = start();
        struct timeval t = {0, 400000};
        int result = select(0, NULL, NULL, NULL, &t);
        if (result) FAIL("select: %d, %s", result, strerror(errno));
        check_time("select", began, 400);
    }
    return unused;
}

/* -- waits without an end: a reader and a writer of a pipe, two players of a futex -------------------------------- */

static int numbers[2];

static void *number_reader(void *unused)
{
    uint64_t got, expected = 0;
    for (;;) {
        ssize_t n = read(numbers[0], &got, 8);
        if (n != 8) FAIL("read from a pipe: %zd, %s", n, strerror(errno));
        if (got == UINT64_MAX) return unused;
        if (got != expected++) FAIL("a pipe gave %llu instead of %llu", (unsigned long long)got, (unsigned long long)expected - 1);
    }
}

static void *number_writer(void *unused)
{
    uint64_t next = 0, last = UINT64_MAX;
    while (!finish) {
        for (int i = 0; i < 100; i++, next++)
            if (write(numbers[1], &next, 8) != 8) FAIL("write to a pipe: %s", strerror(errno));
        usleep(3000);
    }
    if (write(numbers[1], &last, 8) != 8) FAIL("write to a pipe: %s", strerror(errno));
    return unused;
}

static _Atomic uint32_t turn;

static void *player(void *mine)
{
    uint32_t me = (uint32_t)(uintptr_t)mine;
    while (!finish) {
        uint32_t is = atomic_load(&turn);
        if ((is & 1) == me) {
            atomic_store(&turn, is + 1);
            syscall(SYS_futex, &turn, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
            usleep(1000);
        } else if (syscall(SYS_futex, &turn, FUTEX_WAIT_PRIVATE, is, NULL, NULL, 0) && errno != EAGAIN) {
            FAIL("futex without timeout: %s", strerror(errno));
        }
    }
    atomic_fetch_add(&turn, 1);
    syscall(SYS_futex, &turn, FUTEX_WAKE_PRIVATE, 2, NULL, NULL, 0);
    return NULL;
}

/* -- registers ---------------------------------------------------------------------------------------------------- */

#ifdef __i386__
/* All general registers but ecx (the loop) and esp hold known values, the arithmetic flags are all set, ymm0-7 are filled;
   none of the loop's instructions touches any of these. Then all of it is stored. Nothing lies below the stack pointer. */
struct kept {
    uint32_t general[6], flags, filler;
    uint64_t ymm[8][4];
};
enum { GENERAL = 6 };

void spin(struct kept *out, const struct kept *in, uint32_t times);
__asm__(
    "spin:\n"
    "push %ebx\n push %ebp\n push %esi\n push %edi\n"
    "mov 24(%esp), %esi\n mov 28(%esp), %ecx\n"
    ".irp n,0,1,2,3,4,5,6,7\n vmovdqu 32+\\n*32(%esi), %ymm\\n\n .endr\n"
    "mov 0(%esi), %eax\n mov 4(%esi), %ebx\n mov 8(%esi), %edx\n mov 12(%esi), %edi\n mov 20(%esi), %ebp\n"
    "push 24(%esi)\n popf\n mov 16(%esi), %esi\n"
    "1: lea -1(%ecx), %ecx\n jecxz 2f\n jmp 1b\n"
    "2: mov 20(%esp), %ecx\n"
    "mov %eax, 0(%ecx)\n mov %ebx, 4(%ecx)\n mov %edx, 8(%ecx)\n mov %edi, 12(%ecx)\n mov %esi, 16(%ecx)\n"
    "mov %ebp, 20(%ecx)\n pushf\n pop %eax\n mov %eax, 24(%ecx)\n"
    ".irp n,0,1,2,3,4,5,6,7\n vmovdqu %ymm\\n, 32+\\n*32(%ecx)\n .endr\n"
    "vzeroupper\n cld\n"
    "pop %edi\n pop %esi\n pop %ebp\n pop %ebx\n ret\n");
_Static_assert(offsetof(struct kept, ymm) == 32, "as spin() has them");
#else
/* All general registers but rcx (the loop) and rsp hold known values, the arithmetic flags are all set, ymm0-15 and the
   red zone are filled; none of the loop's instructions touches any of these. Then all of it is stored. */
struct kept {
    uint64_t general[14], flags, red_zone[16], ymm[16][4];
};

void spin(struct kept *out, const struct kept *in, uint64_t times);
__asm__(
    "spin:\n"
    "push %rbx\n push %rbp\n push %r12\n push %r13\n push %r14\n push %r15\n"
    "push %rdi\n mov %rdx, %rcx\n"
    ".set i, 0\n .rept 16\n mov 120+i*8(%rsi), %rax\n mov %rax, -128+i*8(%rsp)\n .set i, i+1\n .endr\n"
    ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n vmovdqu 248+\\n*32(%rsi), %ymm\\n\n .endr\n"
    "mov 0(%rsi), %rax\n mov 8(%rsi), %rbx\n mov 16(%rsi), %rdx\n mov 24(%rsi), %rdi\n mov 40(%rsi), %rbp\n"
    "mov 48(%rsi), %r8\n mov 56(%rsi), %r9\n mov 64(%rsi), %r10\n mov 72(%rsi), %r11\n mov 80(%rsi), %r12\n"
    "mov 88(%rsi), %r13\n mov 96(%rsi), %r14\n mov 104(%rsi), %r15\n"
    "lea -128(%rsp), %rsp\n pushq 112(%rsi)\n popfq\n lea 128(%rsp), %rsp\n"
    "mov 32(%rsi), %rsi\n"
    "1: lea -1(%rcx), %rcx\n jrcxz 2f\n jmp 1b\n"
    "2: mov (%rsp), %rcx\n"
    "mov %rax, 0(%rcx)\n mov %rbx, 8(%rcx)\n mov %rdx, 16(%rcx)\n mov %rdi, 24(%rcx)\n mov %rsi, 32(%rcx)\n"
    "mov %rbp, 40(%rcx)\n mov %r8, 48(%rcx)\n mov %r9, 56(%rcx)\n mov %r10, 64(%rcx)\n mov %r11, 72(%rcx)\n"
    "mov %r12, 80(%rcx)\n mov %r13, 88(%rcx)\n mov %r14, 96(%rcx)\n mov %r15, 104(%rcx)\n"
    "lea -128(%rsp), %rsp\n pushfq\n pop %rax\n lea 128(%rsp), %rsp\n mov %rax, 112(%rcx)\n"
    ".set i, 0\n .rept 16\n mov -128+i*8(%rsp), %rax\n mov %rax, 120+i*8(%rcx)\n .set i, i+1\n .endr\n"
    ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n vmovdqu %ymm\\n, 248+\\n*32(%rcx)\n .endr\n"
    "vzeroupper\n cld\n"
    "pop %rdi\n pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbp\n pop %rbx\n ret\n");
enum { GENERAL = 14 };
_Static_assert(offsetof(struct kept, red_zone) == 120 && offsetof(struct kept, ymm) == 248, "as spin() has them");
#endif

#define ARITHMETIC 0xCD5 /* CF PF AF ZF SF DF OF */

static void *busy(void *unused)
{
    struct kept in, out;
    for (uint64_t round = 1; !finish; round++) {
        uint64_t *words = (uint64_t *)&in;
        for (size_t i = 0; i < sizeof(in) / 8; i++) words[i] = (round * 1000 + i) * 0x9E3779B97F4A7C15ull;
        in.flags = 0x202 | ARITHMETIC;
        memset(&out, 0, sizeof(out));
        spin(&out, &in, 6000000);
        for (int i = 0; i < GENERAL; i++)
            if (in.general[i] != out.general[i]) FAIL("register %d is %llx instead of %llx", i, (unsigned long long)out.general[i], (unsigned long long)in.general[i]);
        if ((in.flags ^ out.flags) & ARITHMETIC) FAIL("the flags are %llx", (unsigned long long)out.flags);
#ifndef __i386__
        if (memcmp(in.red_zone, out.red_zone, sizeof(in.red_zone))) FAIL("the red zone was written to");
#endif
        if (memcmp(in.ymm, out.ymm, sizeof(in.ymm))) FAIL("a vector register was changed");
        usleep(2000);
    }
    return unused;
}

/* -- restartable sequences: a counter for each CPU, counted up without lock or atomic -------------------------------- */

static volatile unsigned long per_cpu[4096];
static _Atomic unsigned long counted;

#ifdef __i386__ /* built with -no-pie */
#define ADDRESSES ".long 1f, 0, 2f - 1f, 0, 4f, 0\n"
#define TAKE_SECTION "movl $3b, %[section]\n"
#else
#define ADDRESSES ".quad 1f, 2f - 1f, 4f\n"
#define TAKE_SECTION "lea 3b(%%rip), %[scratch]\n mov %[scratch], %[section]\n"
#endif

static void *rseq_counter(void *unused)
{
    struct rseq *area = (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
    unsigned long mine = 0;
    if (!__rseq_size) FAIL("the C library has not registered rseq");
    while (!finish) {
        for (int i = 0; i < 200; i++) {
            uint32_t cpu = *(volatile uint32_t *)&area->cpu_id_start;
            unsigned long done = 0, scratch;
            /* Between 1 and 2 the sum is only in a register, for some microseconds: whoever interrupts must abort it. */
            __asm__ volatile(
                ".pushsection __rseq_cs, \"aw\"\n .balign 32\n"
                "3: .long 0, 0\n" ADDRESSES ".popsection\n"
                TAKE_SECTION
                "1: cmp %[cpu], %[cpu_id]\n jne 5f\n"
                "mov (%[counter]), %[scratch]\n inc %[scratch]\n"
                "mov $4000, %%ecx\n 6: dec %%ecx\n jnz 6b\n"
                "mov %[scratch], (%[counter])\n"
                "2: mov $1, %[done]\n jmp 5f\n"
                ".byte 0x0f, 0xb9, 0x3d\n .long 0x53053053\n" /* RSEQ_SIG, before the abort address */
                "4: nop\n"
                "5:\n"
                : [done] "+&r"(done), [scratch] "=&r"(scratch), [section] "=m"(area->rseq_cs)
                : [cpu] "r"(cpu), [cpu_id] "m"(area->cpu_id), [counter] "r"(&per_cpu[cpu * 8 % 4096])
                : "ecx", "memory", "cc");
            mine += done;
        }
        usleep(1000);
    }
    atomic_fetch_add(&counted, mine);
    return unused;
}

/* -- memory, files, short-lived threads, signals -------------------------------------------------------------------------- */

#define WORDS (4u << 20 >> 3)

static void *memory(void *unused)
{
    uint64_t *words = mmap(0, WORDS * 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (uint64_t round = 0; !finish; round++) {
        for (uint64_t i = 0; i < WORDS; i++) {
            uint64_t before = round ? (round - 1) * 0x9E3779B97F4A7C15ull ^ i : 0;
            if (words[i] != before) FAIL("word %llu of memory is %llx", (unsigned long long)i, (unsigned long long)words[i]);
            words[i] = round * 0x9E3779B97F4A7C15ull ^ i;
        }
        usleep(3000);
    }
    return unused;
}

static void *file_writer(void *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    for (unsigned long next = 0; !finish; next++) {
        char line[32];
        int size = snprintf(line, sizeof(line), "%lu\n", next);
        if (write(fd, line, (size_t)size) != size) FAIL("write to a file: %s", strerror(errno));
        if (next % 10 == 0) usleep(1000);
    }
    close(fd);
    return NULL;
}

static void *short_lived(void *value) { return value; }

static void *churn(void *unused)
{
    while (!finish) {
        pthread_t threads[4];
        for (uintptr_t i = 0; i < 4; i++)
            if (pthread_create(&threads[i], NULL, short_lived, (void *)i)) FAIL("pthread_create: %s", strerror(errno));
        for (uintptr_t i = 0; i < 4; i++) {
            void *value;
            if (pthread_join(threads[i], &value) || value != (void *)i) FAIL("a thread did not return its value");
        }
    }
    return unused;
}

static void on_usr1(int signal) { (void)signal; finish = 1; }

static void on_realtime(int signal, siginfo_t *info, void *context)
{
    (void)signal, (void)context;
    if (info->si_code != SI_QUEUE || info->si_value.sival_int != signals_seen) signals_wrong = 1;
    signals_seen++;
}

int main(int argc, char **argv)
{
    if (argc < 2 || pipe(numbers)) return 2;
    void *(*const stories[])(void *) = {ticker, sleeper, absolute_sleeper, futex_sleeper, poller, selecter, number_reader, number_writer,
                                        busy, rseq_counter, rseq_counter, memory};
    enum { STORIES = sizeof(stories) / sizeof(stories[0]) };
    pthread_t threads[STORIES + 4];
    int count = 0;
    sigset_t both, before;
    sigemptyset(&both);
    sigaddset(&both, SIGUSR1);
    sigaddset(&both, SIGRTMIN + 1);
    pthread_sigmask(SIG_BLOCK, &both, &before);
    sigaction(SIGUSR1, &(struct sigaction){.sa_handler = on_usr1}, NULL);
    sigaction(SIGRTMIN + 1, &(struct sigaction){.sa_sigaction = on_realtime, .sa_flags = SA_SIGINFO}, NULL);
    for (int i = 0; i < STORIES; i++) pthread_create(&threads[count++], NULL, stories[i], NULL);
    pthread_create(&threads[count++], NULL, player, (void *)0);
    pthread_create(&threads[count++], NULL, player, (void *)1);
    pthread_create(&threads[count++], NULL, file_writer, argv[1]);
    if (argc > 2) pthread_create(&threads[count++], NULL, churn, NULL);
    dprintf(1, "ready\n");
    /* Nothing but the two handlers may end this call. */
    for (int handled = 0; !finish; ) {
        if (sigsuspend(&before) != -1 || errno != EINTR) FAIL("sigsuspend: %s", strerror(errno));
        if (!finish && signals_seen == handled) FAIL("sigsuspend was ended by no signal");
        handled = signals_seen;
    }
    for (int i = 0; i < count; i++) pthread_join(threads[i], NULL);
    unsigned long sum = 0;
    for (int i = 0; i < 4096; i++) sum += per_cpu[i];
    if (sum != counted) FAIL("%llu restartable sequences ended, %llu are counted", (unsigned long long)counted, (unsigned long long)sum);
    if (signals_wrong) FAIL("signals came out of order or with another siginfo");
    dprintf(1, "signals: %d\nok\n", (int)signals_seen);
    return 0;
}
