/* What the kernel knows about the waits of one thread group: each task's restart_block, and the timer that
   will wake it. A task iterator (Documentation/bpf/bpf_iterators.rst) limited to the group writes one
   struct task_report a task; livecr/kernel/bpf.py reads it. Kernel structures are declared with only the members
   used; libbpf finds their offsets in the running kernel's BTF (CO-RE), so no kernel version is compared. */
#include <linux/bpf.h>

#include <stdbool.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

typedef __u8 u8;
typedef __u32 u32;
typedef __u64 u64;
typedef __s64 s64;

char LICENSE[] SEC("license") = "GPL";

#define KERNEL __attribute__((preserve_access_index))

#include "numbers.h"

/* -- the kernel's structures ----------------------------------------------------------------------------- */

enum timespec_type { TT_NONE };

struct restart_block {
    long (*fn)(struct restart_block *);
    union {
        struct {
            u32 *uaddr;
            u32 val;
            u32 flags;
            u32 bitset;
            u64 time;
            u32 *uaddr2;
        } KERNEL futex;
        struct {
            int clockid;
            enum timespec_type type;
            union {
                void *rmtp;
            } KERNEL;
            u64 expires;
        } KERNEL nanosleep;
        struct {
            void *ufds;
            int nfds;
            int has_timeout;
            unsigned long tv_sec;
            unsigned long tv_nsec;
        } KERNEL poll;
    } KERNEL;
} KERNEL;

struct timespec64 {
    s64 tv_sec;
    long tv_nsec;
} KERNEL;

/* Where poll's two words have become one timespec64. */
struct restart_block___end_time {
    union {
        struct {
            struct timespec64 end_time;
        } KERNEL poll;
    } KERNEL;
} KERNEL;

struct timerqueue_node {
    s64 expires;
} KERNEL;

struct hrtimer_clock_base {
    int clockid;
} KERNEL;

struct hrtimer {
    struct timerqueue_node node;
    s64 _softexpires;
    void *function;
    struct hrtimer_clock_base *base;
    u8 state;
} KERNEL;

/* Where the red-black tree's node has become a linked one, and the state a flag. */
struct timerqueue_linked_node {
    s64 expires;
} KERNEL;

struct hrtimer___linked {
    struct timerqueue_linked_node node;
    bool is_queued;
} KERNEL;

struct task_struct;

struct hrtimer_sleeper {
    struct hrtimer timer;
    struct task_struct *task;
} KERNEL;

struct hlist_node {
    struct hlist_node **pprev;
} KERNEL;

struct timer_list {
    struct hlist_node entry;
    unsigned long expires;
    void *function;
} KERNEL;

struct process_timer {
    struct timer_list timer;
    struct task_struct *task;
} KERNEL;

/* What a task that waits for completions of an io_uring has on its stack (io_uring/wait.h): a wait queue entry, whose
   private is the task, and since 6.12 a timer of its own. */
struct wait_queue_entry {
    void *private;
    void *func;
} KERNEL;

struct io_wait_queue {
    struct wait_queue_entry wq;
    struct hrtimer t;
} KERNEL;

struct timerqueue_head;

struct cpu_timer {
    struct timerqueue_node node;
    struct timerqueue_head *head; /* NULL when it is not queued */
} KERNEL;

struct k_itimer {
    int it_clock;
    struct signal_struct *it_signal;
    s64 it_overrun;
    s64 it_interval;
    union {
        struct task_struct *it_process;
    } KERNEL;
    union {
        struct cpu_timer cpu;
    } KERNEL it;
} KERNEL;

struct desc_struct {
    u64 word;
} KERNEL;

struct thread_struct {
    struct desc_struct tls_array[3];
    unsigned long sp;
} KERNEL;

struct sched_entity {
    u64 exec_start;
} KERNEL;

struct list_head {
    struct list_head *next;
} KERNEL;

struct sem_undo_list {
    struct list_head list_proc;
} KERNEL;

struct sysv_sem {
    struct sem_undo_list *undo_list;
} KERNEL;

struct thread_info {
    unsigned long flags;
    unsigned long syscall_work;
} KERNEL;

struct seccomp {
    int mode;
} KERNEL;

struct assoc_array {
    unsigned long nr_leaves_on_tree;
} KERNEL;

struct key {
    int serial;
    struct assoc_array keys;
} KERNEL;

struct cred {
    unsigned securebits;
    struct key *session_keyring;
    struct key *process_keyring;
    struct key *thread_keyring;
} KERNEL;

enum syscall_work_bit { SYSCALL_WORK_BIT_SYSCALL_USER_DISPATCH = 5 };

struct task_struct {
    unsigned int __state;
    void *stack;
    int on_cpu;
    int prio;
    struct sched_entity se;
    unsigned long nvcsw;
    u64 timer_slack_ns;
    struct restart_block restart_block;
    struct sysv_sem sysvsem;
    struct cred *cred;
    struct cred *real_cred;
    int *clear_child_tid;
    unsigned long sas_ss_sp;
    unsigned long sas_ss_size;
    unsigned sas_ss_flags;
    struct thread_info thread_info;
    unsigned flags;
    unsigned long atomic_flags;
    int pdeath_signal;
    char comm[16];
    struct seccomp seccomp;
    void *robust_list;
    struct thread_struct thread;
} KERNEL;

/* Before 5.14. */
struct task_struct___state {
    volatile long state;
} KERNEL;

struct bpf_iter_meta {
    struct seq_file *seq;
} KERNEL;

struct bpf_iter__task {
    struct bpf_iter_meta *meta;
    struct task_struct *task;
} KERNEL;

/* -- what is reported; livecr/kernel/bpf.py unpacks the same layout --------------------------------------- */

enum { SLEEPER_NONE, SLEEPER_HRTIMER, SLEEPER_JIFFIES, SLEEPER_CPU, SLEEPER_MINIMUM };

struct task_report {
    u32 tid;
    u32 state;
    u64 now_ns;     /* CLOCK_MONOTONIC when this was read */
    u64 jiffies;    /* jiffies_64 at the same moment */
    u64 slack_ns;   /* task->timer_slack_ns; 0 for a task whose priority forbids slack */
    u64 exec_start; /* scheduler clock when the task last ran */
    /* restart_block: all three readings of its union; restart_fn says which one holds */
    char restart_fn[40];
    u64 sleep_rmtp;
    u64 sleep_expires;
    u32 sleep_clockid;
    u32 sleep_type;
    u64 futex_uaddr;
    u64 futex_time;
    u64 futex_uaddr2;
    u32 futex_val;
    u32 futex_flags;
    u32 futex_bitset;
    u32 poll_nfds;
    u64 poll_ufds;
    u64 poll_tv_sec;
    u64 poll_tv_nsec;
    u32 poll_has_timeout;
    /* the sleeper on the kernel stack */
    u32 sleeper;
    u32 sleeper_clockid;
    u32 switches; /* task->nvcsw, low word: how often it went to sleep */
    u64 sleeper_soft; /* ns on the clock base or CPU clock; jiffies for SLEEPER_JIFFIES */
    u64 sleeper_hard;
    u32 undoes; /* whether it has used semaphores with SEM_UNDO */
    u32 securebits;
    /* what prctl and sigaltstack would tell the task itself */
    u64 timer_slack_ns;
    u64 clear_child_tid;
    u64 sas_ss_sp;
    u64 sas_ss_size;
    u64 sas_ss_flags;
    /* what prctl and /proc/PID/status tell of a task follows from these */
    u64 thread_flags;
    u64 atomic_flags;
    u64 cred; /* where it is: tasks that have the same have the same ids, groups and capabilities */
    u32 flags;
    u32 pdeath_signal;
    u32 seccomp_mode;
    u32 dispatches; /* whether PR_SET_SYSCALL_USER_DISPATCH is on */
    u64 segments;   /* not 0 if any of its descriptors in the GDT is set */
    u64 robust_list;
    char comm[16];
    u32 session_keyring; /* its serial number, 0 for none of its own */
    u32 process_keys;    /* how many are in that keyring */
    u32 thread_keys;
};

/* -- the timer that will wake a blocked task --------------------------------------------------------------- */

enum { STACK_WORDS = 2048 /* 16 KiB, THREAD_SIZE */, MAX_RT_PRIO = 100 };

struct scan {
    u64 task;
    u64 next; /* address of the word to look at */
    u64 end;
    struct task_report *report;
};

/* Function names are short enough here to compare as two words; %ps asks the kernel's own symbol table. */
static const char symbol[] = "%ps";

static __always_inline bool is_function(void *function, const char name[16])
{
    union {
        char text[32];
        u64 words[4];
    } found = {};
    u64 argument = (u64)function;
    const u64 *wanted = (const u64 *)name;
    bpf_snprintf(found.text, sizeof(found.text), symbol, &argument, sizeof(argument));
    return found.words[0] == wanted[0] && found.words[1] == wanted[1];
}

static const char hrtimer_wakeup[16] __attribute__((aligned(8))) = "hrtimer_wakeup";
static const char process_timeout[16] __attribute__((aligned(8))) = "process_timeout";
/* Cut off: io_cqring_min_timer_wakeup, of a minimum time to wait that is not over. */
static const char io_cqring_min_timer[16] __attribute__((aligned(8))) = {"io_cqring_min_ti"};
static const char io_wake_function[16] __attribute__((aligned(8))) = "io_wake_function";

static __always_inline bool hrtimer_is_queued(struct hrtimer *timer)
{
    struct hrtimer___linked *linked = (void *)timer;
    if (bpf_core_field_exists(linked->is_queued))
        return BPF_CORE_READ(linked, is_queued);
    return BPF_CORE_READ(timer, state) & 1; /* HRTIMER_STATE_ENQUEUED */
}

static __always_inline void take(struct hrtimer *timer, struct task_report *report)
{
    struct hrtimer___linked *linked = (void *)timer;
    report->sleeper = SLEEPER_HRTIMER;
    report->sleeper_clockid = BPF_CORE_READ(timer, base, clockid);
    report->sleeper_soft = BPF_CORE_READ(timer, _softexpires);
    if (bpf_core_field_exists(linked->is_queued))
        report->sleeper_hard = BPF_CORE_READ(linked, node.expires);
    else
        report->sleeper_hard = BPF_CORE_READ(timer, node.expires);
}

/* The timer of do_cpu_nanosleep has no function to tell it by, only what that function writes into all of it. So the
   search goes on: another kind, if there is one, is what wakes the task. */
static __always_inline void look_at_cpu_timer(u64 at, struct task_report *report)
{
    if (!bpf_core_field_exists(struct k_itimer, it_process) || !bpf_core_field_exists(struct k_itimer, it_signal) ||
        !bpf_core_field_exists(struct k_itimer, it_overrun) || !bpf_core_field_exists(struct k_itimer, it.cpu.head))
        return;
    struct k_itimer *timer = (void *)(at - bpf_core_field_offset(struct k_itimer, it_process));
    int clockid = BPF_CORE_READ(timer, it_clock);
    s64 expires = BPF_CORE_READ(timer, it.cpu.node.expires), head = (s64)BPF_CORE_READ(timer, it.cpu.head);
    if (clockid >= 0 || expires <= 0 || head >= 0 /* a kernel address is below 0 */)
        return;
    if (BPF_CORE_READ(timer, it_overrun) != -1 || BPF_CORE_READ(timer, it_interval) || BPF_CORE_READ(timer, it_signal))
        return;
    report->sleeper = SLEEPER_CPU;
    report->sleeper_clockid = clockid;
    report->sleeper_soft = report->sleeper_hard = expires;
}

/* All kinds of sleeper hold a pointer to the task, so a word equal to it is where to look. That the timer is
   queued tells the one in use from remains of earlier calls in holes of the stack. */
static long look_at_word(u32 index, struct scan *scan)
{
    u64 at = scan->next, word = 0;
    struct task_report *report = scan->report;
    if (at >= scan->end || bpf_probe_read_kernel(&word, sizeof(word), (void *)at))
        return 1;
    scan->next = at + 8;
    if (word != scan->task)
        return 0;

    struct hrtimer_sleeper *sleeper = (void *)(at - bpf_core_field_offset(struct hrtimer_sleeper, task));
    if (hrtimer_is_queued(&sleeper->timer) && is_function(BPF_CORE_READ(sleeper, timer.function), hrtimer_wakeup)) {
        take(&sleeper->timer, report);
        return 1;
    }
    struct io_wait_queue *waiting = (void *)(at - bpf_core_field_offset(struct io_wait_queue, wq.private));
    if (bpf_core_field_exists(waiting->t) && hrtimer_is_queued(&waiting->t) &&
        is_function(BPF_CORE_READ(waiting, wq.func), io_wake_function)) {
        take(&waiting->t, report);
        if (is_function(BPF_CORE_READ(waiting, t.function), io_cqring_min_timer))
            report->sleeper = SLEEPER_MINIMUM;
        return 1;
    }
    if (!bpf_core_type_exists(struct process_timer))
        return 0;
    struct process_timer *timer = (void *)(at - bpf_core_field_offset(struct process_timer, task));
    if (BPF_CORE_READ(timer, timer.entry.pprev) &&
        is_function(BPF_CORE_READ(timer, timer.function), process_timeout)) {
        report->sleeper = SLEEPER_JIFFIES;
        report->sleeper_soft = report->sleeper_hard = BPF_CORE_READ(timer, timer.expires);
        return 1;
    }
    look_at_cpu_timer(at, report);
    return 0;
}

static __always_inline void find_sleeper(struct task_struct *task, struct task_report *report)
{
    u64 stack = (u64)BPF_CORE_READ(task, stack);
    struct scan scan = {.task = (u64)task, .report = report};
    scan.next = BPF_CORE_READ(task, thread.sp);
    scan.end = stack + 8 * STACK_WORDS;
    if (scan.next < stack || scan.next >= scan.end)
        return; /* no stack of its own any more, or one larger than ours (KASAN): the read faults, if at all */
    bpf_loop(STACK_WORDS, look_at_word, &scan, 0);
}

/* -- restart_block ------------------------------------------------------------------------------------------ */

/* Read with bpf_probe_read_kernel (inside BPF_CORE_READ): the verifier refuses direct access to the union. */
static __always_inline void read_restart_block(struct task_struct *task, struct task_report *report)
{
    struct restart_block *block = &task->restart_block;
    struct restart_block___end_time *newer = (void *)block;
    u64 function = (u64)BPF_CORE_READ(block, fn);
    if (!function)
        return;
    bpf_snprintf(report->restart_fn, sizeof(report->restart_fn), symbol, &function, sizeof(function));
    report->sleep_clockid = BPF_CORE_READ(block, nanosleep.clockid);
    report->sleep_type = BPF_CORE_READ(block, nanosleep.type);
    report->sleep_rmtp = (u64)BPF_CORE_READ(block, nanosleep.rmtp);
    report->sleep_expires = BPF_CORE_READ(block, nanosleep.expires);
    report->futex_uaddr = (u64)BPF_CORE_READ(block, futex.uaddr);
    report->futex_val = BPF_CORE_READ(block, futex.val);
    report->futex_flags = BPF_CORE_READ(block, futex.flags);
    report->futex_bitset = BPF_CORE_READ(block, futex.bitset);
    report->futex_time = BPF_CORE_READ(block, futex.time);
    report->futex_uaddr2 = (u64)BPF_CORE_READ(block, futex.uaddr2);
    report->poll_ufds = (u64)BPF_CORE_READ(block, poll.ufds);
    report->poll_nfds = BPF_CORE_READ(block, poll.nfds);
    report->poll_has_timeout = BPF_CORE_READ(block, poll.has_timeout);
    if (bpf_core_field_exists(newer->poll.end_time)) {
        report->poll_tv_sec = BPF_CORE_READ(newer, poll.end_time.tv_sec);
        report->poll_tv_nsec = BPF_CORE_READ(newer, poll.end_time.tv_nsec);
    } else {
        report->poll_tv_sec = BPF_CORE_READ(block, poll.tv_sec);
        report->poll_tv_nsec = BPF_CORE_READ(block, poll.tv_nsec);
    }
}

static __always_inline bool has_undo(struct task_struct *task)
{
    struct sem_undo_list *list;
    if (!bpf_core_field_exists(task->sysvsem)) /* without CONFIG_SYSVIPC */
        return false;
    list = BPF_CORE_READ(task, sysvsem.undo_list);
    return list && BPF_CORE_READ(list, list_proc.next) != &list->list_proc;
}

/* None of these has a branch: the verifier would follow all that comes behind it twice. What is read through NULL
   is 0. */
static u64 segments(struct task_struct *task)
{
    u64 entries[3];
    BPF_CORE_READ_INTO(&entries, task, thread.tls_array);
    return entries[0] | entries[1] | entries[2];
}

static u32 keys_in(struct key *keyring)
{
    return (u32)BPF_CORE_READ(keyring, keys.nr_leaves_on_tree);
}

static void read_keyrings(struct task_struct *task, struct task_report *report)
{
    struct cred *cred = BPF_CORE_READ(task, real_cred);
    if (!bpf_core_field_exists(cred->session_keyring)) /* without CONFIG_KEYS */
        return;
    report->session_keyring = (u32)BPF_CORE_READ(cred, session_keyring, serial);
    report->process_keys = keys_in(BPF_CORE_READ(cred, process_keyring));
    report->thread_keys = keys_in(BPF_CORE_READ(cred, thread_keyring));
}

static u32 dispatches(struct task_struct *task)
{
    if (!bpf_core_field_exists(task->thread_info.syscall_work) ||
        !bpf_core_enum_value_exists(enum syscall_work_bit, SYSCALL_WORK_BIT_SYSCALL_USER_DISPATCH))
        return 0; /* before 5.11 there was none */
    return BPF_CORE_READ(task, thread_info.syscall_work) >>
               bpf_core_enum_value(enum syscall_work_bit, SYSCALL_WORK_BIT_SYSCALL_USER_DISPATCH) &
           1;
}

SEC("iter/task")
int report_task(struct bpf_iter__task *ctx)
{
    /* First of all: each path that the verifier follows through this line costs it a search of all BTF names. */
    struct seq_file *seq = ctx->meta->seq;
    struct task_struct *task = ctx->task;
    struct task_struct___state *older = (void *)task;
    struct task_report report = {};
    if (!task)
        return 0;
    report.tid = number_for_reader(task);
    if (bpf_core_field_exists(task->__state))
        report.state = BPF_CORE_READ(task, __state);
    else
        report.state = BPF_CORE_READ(older, state);
    report.now_ns = bpf_ktime_get_ns();
    report.jiffies = bpf_jiffies64();
    if (BPF_CORE_READ(task, prio) >= MAX_RT_PRIO)
        report.slack_ns = BPF_CORE_READ(task, timer_slack_ns);
    report.switches = BPF_CORE_READ(task, nvcsw);
    report.exec_start = BPF_CORE_READ(task, se.exec_start);
    report.undoes = has_undo(task);
    report.securebits = BPF_CORE_READ(task, cred, securebits);
    report.timer_slack_ns = BPF_CORE_READ(task, timer_slack_ns);
    report.clear_child_tid = (u64)BPF_CORE_READ(task, clear_child_tid);
    report.sas_ss_sp = BPF_CORE_READ(task, sas_ss_sp);
    report.sas_ss_size = BPF_CORE_READ(task, sas_ss_size);
    report.sas_ss_flags = BPF_CORE_READ(task, sas_ss_flags);
    report.thread_flags = BPF_CORE_READ(task, thread_info.flags);
    report.atomic_flags = BPF_CORE_READ(task, atomic_flags);
    report.cred = (u64)BPF_CORE_READ(task, real_cred);
    report.flags = BPF_CORE_READ(task, flags);
    report.pdeath_signal = BPF_CORE_READ(task, pdeath_signal);
    if (bpf_core_field_exists(task->seccomp.mode))
        report.seccomp_mode = BPF_CORE_READ(task, seccomp.mode);
    report.segments = segments(task);
    report.robust_list = (u64)BPF_CORE_READ(task, robust_list);
    BPF_CORE_READ_INTO(&report.comm, task, comm);
    read_keyrings(task, &report);
    report.dispatches = dispatches(task);
    read_restart_block(task, &report);
    if (report.state && !BPF_CORE_READ(task, on_cpu))
        find_sleeper(task, &report);
    bpf_seq_write(seq, &report, sizeof(report));
    return 0;
}
