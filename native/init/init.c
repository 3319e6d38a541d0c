/* Process 1 of a PID namespace that a program was restored into (livecr/pid_namespace.py), once livecr has let go of
   the program, whose root is its child: waits for whatever is orphaned there, passes on to the root the signals that
   come from outside of the namespace, and ends as the root ends (128 + N if signal N killed it); with it all that is
   left there ends (pid_namespaces(7)). Freestanding: it stays as small as it is seldom awake.
   usage: init ROOT */
#include <asm/siginfo.h>
#include <asm/signal.h>
#include <asm/unistd.h>
#include <linux/prctl.h>
#include <linux/time_types.h>
#include <linux/wait.h>

static long call(long number, long a, long b, long c, long d)
{
    register long r10 __asm__("r10") = d;
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "0"(number), "D"(a), "S"(b), "d"(c), "r"(r10)
                     : "rcx", "r11", "memory");
    return result;
}

/* A root that is killed may have been by a livecr that has entered the namespace (nsenter(1)) to checkpoint it, and is
   about to say so: it is not to be killed by the namespace's end. */
static void let_others_finish(void)
{
    struct __kernel_timespec pause = {0, 10000000};
    for (int i = 0; i < 300 && call(__NR_kill, -1, 0, 0, 0) == 0; i++) {
        while (call(__NR_wait4, -1, 0, WNOHANG | __WALL, 0) > 0)
            ;
        call(__NR_nanosleep, (long)&pause, 0, 0, 0);
    }
}

static void end(int status)
{
    if ((status & 0x7F) == SIGKILL)
        let_others_finish();
    for (;;)
        call(__NR_exit_group, status & 0x7F ? 128 + (status & 0x7F) : status >> 8 & 0xFF, 0, 0, 0);
}

static void wait_for_all_that_ended(long root)
{
    int status;
    long ended;
    while ((ended = call(__NR_wait4, -1, (long)&status, WNOHANG | __WALL, 0)) > 0)
        if (ended == root)
            end(status);
}

/* Whatever the caller has open is not the namespace's; and its directory shall not stay busy. Had the caller ignored
   SIGCHLD, the kernel would not tell how children end. */
static void let_go_of_caller(void)
{
    unsigned long all = ~0UL, default_action[4] = {0};
    call(__NR_rt_sigprocmask, SIG_SETMASK, (long)&all, 0, sizeof all);
    call(__NR_rt_sigaction, SIGCHLD, (long)default_action, 0, sizeof all);
    call(__NR_close_range, 0, -1, 0, 0);
    call(__NR_chdir, (long)"/", 0, 0, 0);
    call(__NR_prctl, PR_SET_NAME, (long)"livecr-init", 0, 0);
}

__attribute__((noreturn, used)) static void run(const long *stack)
{
    const char *digits = (const char *)stack[2]; /* behind argc and argv[0] */
    unsigned long all = ~0UL;
    siginfo_t info;
    long root = 0;
    for (; digits && *digits >= '0' && *digits <= '9'; digits++)
        root = 10 * root + (*digits - '0');
    let_go_of_caller();
    for (;;) {
        wait_for_all_that_ended(root);
        long signal = call(__NR_rt_sigtimedwait, (long)&all, (long)&info, 0, sizeof all);
        /* A sender within the namespace has a number. What the kernel sends is for this process alone. */
        if (signal <= 0 || signal == SIGCHLD || info.si_code > 0 || info.si_pid != 0)
            continue;
        if (info.si_code == SI_QUEUE) /* with its value */
            call(__NR_rt_sigqueueinfo, root, signal, (long)&info, 0);
        else
            call(__NR_kill, root, signal, 0, 0);
    }
}

__asm__(".globl _start\n_start: movq %rsp, %rdi\n andq $-16, %rsp\n call run\n");
