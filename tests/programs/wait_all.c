/* Blocks in many system calls at once, each in a thread of its own that bears the row's name:
   `wait_all MILLISECONDS HANDLER MANNER KIND...`. The first ends after as many milliseconds, each further one 10 ms
   later, by its own timeout or because a last thread does what it waits for. HANDLER: "handler" or "restart" (SA_RESTART), of
   SIGUSR1. MANNER: "once", or "again" to make a call once more that ended with EINTR.
   Prints as JSON, for each kind, what the call gave back, the signal mask after it, how often and when the handler ran, and how
   far beyond its time it came back, on the clock that the time is on. */
#include "wait_all.h"

#include "wait_all_calls.h"

static const struct row rows[] = {
    /* name             its clock        time is on       call                prepared by    ended by */
    {"wait4",           0,               CLOCK_MONOTONIC, c_wait4,            n_child,       p_kill},
    {"waitid",          0,               CLOCK_MONOTONIC, c_waitid,           n_child,       p_kill},
    {"nanosleep",       0,               CLOCK_MONOTONIC, c_nanosleep,        NULL,          NULL},
    {"nanosleep-same",  0,               CLOCK_MONOTONIC, c_same,             NULL,          NULL},
    {"sleep-null",      CLOCK_MONOTONIC, CLOCK_MONOTONIC, c_null,             NULL,          NULL},
    {"sleep-realtime",  CLOCK_REALTIME,  CLOCK_MONOTONIC, c_relative,         NULL,          NULL},
    {"sleep-monotonic", CLOCK_MONOTONIC, CLOCK_MONOTONIC, c_relative,         NULL,          NULL},
    {"sleep-boottime",  CLOCK_BOOTTIME,  CLOCK_BOOTTIME,  c_relative,         NULL,          NULL},
    {"sleep-tai",       CLOCK_TAI,       CLOCK_MONOTONIC, c_relative,         NULL,          NULL},
    {"until-realtime",  CLOCK_REALTIME,  CLOCK_REALTIME,  c_absolute,         NULL,          NULL},
    {"until-monotonic", CLOCK_MONOTONIC, CLOCK_MONOTONIC, c_absolute,         NULL,          NULL},
    {"until-boottime",  CLOCK_BOOTTIME,  CLOCK_BOOTTIME,  c_absolute,         NULL,          NULL},
    {"until-tai",       CLOCK_TAI,       CLOCK_TAI,       c_absolute,         NULL,          NULL},
    {"futex",           0,               CLOCK_MONOTONIC, c_futex,            NULL,          NULL},
    {"futex-shared",    0,               CLOCK_MONOTONIC, c_shared,           NULL,          NULL},
    {"futex-forever",   0,               CLOCK_MONOTONIC, c_futex_forever,    NULL,          p_wake},
    {"futex-woken",     0,               CLOCK_MONOTONIC, c_futex_woken,      NULL,          p_wake},
    {"bitset",          CLOCK_MONOTONIC, CLOCK_MONOTONIC, c_bitset,           NULL,          NULL},
    {"bitset-realtime", CLOCK_REALTIME,  CLOCK_REALTIME,  c_bitset,           NULL,          NULL},
    {"bitset-forever",  0,               CLOCK_MONOTONIC, c_bitset_forever,   NULL,          p_wake},
    {"lock-pi",         0,               CLOCK_MONOTONIC, c_lock_pi,          NULL,          p_unlock},
    {"lock-pi-until",   CLOCK_REALTIME,  CLOCK_REALTIME,  c_lock_pi_until,    NULL,          p_keep},
    {"lock-pi2",        CLOCK_MONOTONIC, CLOCK_MONOTONIC, c_lock_pi2,         NULL,          p_keep},
    {"requeue-pi",      0,               CLOCK_MONOTONIC, c_requeue_pi,       NULL,          p_requeue},
    {"requeue-pi-till", CLOCK_MONOTONIC, CLOCK_MONOTONIC, c_requeue_pi_until, NULL,          NULL},
    {"waitv",           CLOCK_MONOTONIC, CLOCK_MONOTONIC, c_waitv,            n_waitv,       p_wake},
    {"waitv-until",     CLOCK_MONOTONIC, CLOCK_MONOTONIC, c_waitv_until,      n_waitv,       NULL},
    {"waitv-realtime",  CLOCK_REALTIME,  CLOCK_REALTIME,  c_waitv_until,      n_waitv,       NULL},
    {"futex2",          CLOCK_MONOTONIC, CLOCK_MONOTONIC, c_futex2,           NULL,          p_wake},
    {"futex2-until",    CLOCK_MONOTONIC, CLOCK_MONOTONIC, c_futex2_until,     NULL,          NULL},
    {"poll",            0,               CLOCK_MONOTONIC, c_poll,             n_pipe,        NULL},
    {"poll-none",       0,               CLOCK_MONOTONIC, c_poll_none,        NULL,          NULL},
    {"poll-forever",    0,               CLOCK_MONOTONIC, c_poll_forever,     n_pipe,        p_write},
    {"ppoll",           0,               CLOCK_MONOTONIC, c_ppoll,            n_pipe,        NULL},
    {"ppoll-masked",    0,               CLOCK_MONOTONIC, c_ppoll_masked,     n_pipe,        NULL},
    {"ppoll-opened",    0,               CLOCK_MONOTONIC, c_ppoll_opened,     n_pipe,        NULL},
    {"ppoll-forever",   0,               CLOCK_MONOTONIC, c_ppoll_forever,    n_pipe,        p_write},
    {"select",          0,               CLOCK_MONOTONIC, c_select,           n_pipe,        NULL},
    {"select-forever",  0,               CLOCK_MONOTONIC, c_select_forever,   n_pipe,        p_write},
    {"pselect-masked",  0,               CLOCK_MONOTONIC, c_pselect,          n_pipe,        NULL},
    {"pselect-opened",  0,               CLOCK_MONOTONIC, c_pselect_opened,   n_pipe,        NULL},
    {"epoll",           0,               CLOCK_MONOTONIC, c_epoll,            n_epoll,       NULL},
    {"epoll-forever",   0,               CLOCK_MONOTONIC, c_epoll_forever,    n_epoll,       p_write},
    {"epoll-masked",    0,               CLOCK_MONOTONIC, c_epoll_masked,     n_epoll,       NULL},
    {"epoll-opened",    0,               CLOCK_MONOTONIC, c_epoll_opened,     n_epoll,       NULL},
    {"pause",           0,               CLOCK_MONOTONIC, c_pause,            NULL,          p_signal},
    {"sigsuspend",      0,               CLOCK_MONOTONIC, c_suspend,          NULL,          p_signal},
    {"sigwait",         0,               CLOCK_MONOTONIC, c_sigwait,          NULL,          NULL},
    {"sigwait-forever", 0,               CLOCK_MONOTONIC, c_sigwait_forever,  NULL,          p_usr2},
    {"read",            0,               CLOCK_MONOTONIC, c_read,             n_pipe,        p_write},
    {"readv",           0,               CLOCK_MONOTONIC, c_readv,            n_two,         p_write},
    {"preadv2",         0,               CLOCK_MONOTONIC, c_preadv2,          n_two,         p_write},
    {"read-event",      0,               CLOCK_MONOTONIC, c_read_fd,          n_event,       p_event},
    {"read-inotify",    0,               CLOCK_MONOTONIC, c_read_fd,          n_inotify,     p_create},
    {"read-signalfd",   0,               CLOCK_MONOTONIC, c_read_fd,          n_signalfd,    p_usr2},
    {"write",           0,               CLOCK_MONOTONIC, c_write,            n_full,        p_drain},
    {"writev",          0,               CLOCK_MONOTONIC, c_writev,           n_full,        p_drain},
    {"pwritev2",        0,               CLOCK_MONOTONIC, c_pwritev2,         n_full,        p_drain},
    {"vmsplice",        0,               CLOCK_MONOTONIC, c_vmsplice,         n_full,        p_drain},
    {"sendfile",        0,               CLOCK_MONOTONIC, c_sendfile,         n_file,        p_drain},
    {"splice",          0,               CLOCK_MONOTONIC, c_splice,           n_two,         p_write},
    {"tee",             0,               CLOCK_MONOTONIC, c_tee,              n_two,         p_write},
    {"open",            0,               CLOCK_MONOTONIC, c_open,             n_fifo,        p_open_to_write},
    {"openat",          0,               CLOCK_MONOTONIC, c_openat,           n_fifo,        p_open_to_write},
    {"openat2",         0,               CLOCK_MONOTONIC, c_openat2,          n_fifo,        p_open_to_write},
    {"creat",           0,               CLOCK_MONOTONIC, c_creat,            n_fifo,        p_open_to_read},
    {"flock",           0,               CLOCK_MONOTONIC, c_flock,            n_flock,       p_flock},
    {"ofd-lock",        0,               CLOCK_MONOTONIC, c_ofd_lock,         n_ofd_lock,    p_ofd_lock},
    {"posix-lock",      0,               CLOCK_MONOTONIC, c_posix_lock,       n_posix_lock,  NULL},
    {"msgrcv",          0,               CLOCK_MONOTONIC, c_msgrcv,           n_empty_queue, p_msgsnd},
    {"msgsnd",          0,               CLOCK_MONOTONIC, c_msgsnd,           n_full_queue,  p_msgrcv},
    {"semop",           0,               CLOCK_MONOTONIC, c_semop,            n_semaphore,   p_semop},
    {"semtimedop",      0,               CLOCK_MONOTONIC, c_semtimedop,       n_semaphore,   NULL},
    {"mq-receive",      0,               CLOCK_MONOTONIC, c_mq_receive,       n_mqueue,      p_mq_send},
    {"mq-receive-till", CLOCK_REALTIME,  CLOCK_REALTIME,  c_mq_receive_until, n_mqueue,      NULL},
    {"mq-send",         0,               CLOCK_MONOTONIC, c_mq_send,          n_full_mqueue, p_mq_receive},
    {"getevents",       0,               CLOCK_MONOTONIC, c_getevents,        n_aio,         NULL},
    {"pgetevents",      0,               CLOCK_MONOTONIC, c_pgetevents,       n_aio,         NULL},
    {"uring",           0,               CLOCK_MONOTONIC, c_uring,            n_ring,        NULL},
    {"accept",          0,               CLOCK_MONOTONIC, c_accept,           n_server,      p_connect},
    {"accept4",         0,               CLOCK_MONOTONIC, c_accept4,          n_server,      p_connect},
    {"connect",         0,               CLOCK_MONOTONIC, c_connect,          n_busy_server, p_accept},
    {"recvfrom",        0,               CLOCK_MONOTONIC, c_recvfrom,         n_pair,        p_write},
    {"recvmsg",         0,               CLOCK_MONOTONIC, c_recvmsg,          n_pair,        p_write},
    {"recvmmsg",        0,               CLOCK_MONOTONIC, c_recvmmsg,         n_pair,        p_write},
    {"sendto",          0,               CLOCK_MONOTONIC, c_sendto,           n_full_pair,   p_receive},
    {"sendmsg",         0,               CLOCK_MONOTONIC, c_sendmsg,          n_full_pair,   p_receive},
    {"sendmmsg",        0,               CLOCK_MONOTONIC, c_sendmmsg,         n_full_pair,   p_receive},
    {"recvfrom-timed",  0,               CLOCK_MONOTONIC, c_recvfrom,         n_timed_pair,  p_write},
    {"recvmsg-timed",   0,               CLOCK_MONOTONIC, c_recvmsg_all,      n_timed_pair,  p_write},
    {"accept-timed",    0,               CLOCK_MONOTONIC, c_accept,           n_timed_server, p_connect},
    {"sendto-timed",    0,               CLOCK_MONOTONIC, c_sendto,           n_timed_full,  p_receive},
    {"sendto-named",    0,               CLOCK_MONOTONIC, c_sendto_named,     n_timed_receiver, p_receive_one},
};
#define ROWS (int)(sizeof rows / sizeof *rows)
#define STEP_MS 10

static struct wait *waits[ROWS];
static int count, first_ms, again;
static __thread struct wait *self;
static pthread_barrier_t ready;

static void on_usr1(int number)
{
    (void)number;
    if (self) {
        self->handled_ns = now_ns(CLOCK_MONOTONIC);
        self->handled++;
    }
}

static void begin(struct wait *w)
{
    long long ns = (first_ms + w->index * STEP_MS) * 1000000LL;
    w->given = (struct timespec){ns / NS, ns % NS};
    w->tv = (struct timeval){w->given.tv_sec, w->given.tv_nsec / 1000};
    w->left = (struct timespec){7, 7};
    w->began_ns = now_ns(CLOCK_MONOTONIC);
    w->due_ns = now_ns(w->row->clock) + ns;
    w->due = (struct timespec){w->due_ns / NS, w->due_ns % NS};
}

static void *in_call(void *argument)
{
    struct wait *w = self = argument;
    char name[16];
    snprintf(name, sizeof name, "%s", w->row->name);
    pthread_setname_np(pthread_self(), name);
    w->tid = syscall(SYS_gettid);
    block(&usr2_blocked);
    pthread_barrier_wait(&ready);
    begin(w);
    sigset_t usr1;
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    pthread_sigmask(SIG_UNBLOCK, &usr1, NULL);
    w->calls = 1;
    w->result = w->row->call(w);
    if (again && w->result == -EINTR && w->handled) {
        if (!w->row->peer || w->row->peer == p_keep)
            begin(w); /* else it is the peer that knows the time */
        w->calls++;
        w->result = w->row->call(w);
    }
    w->late_ns = now_ns(w->row->clock) - w->due_ns;
    syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &w->mask, 8);
    w->ended = 1;
    return NULL;
}

/* Holds all that is locked, and ends the calls that have no timeout, each in its time. */
static void *everybodys_peer(void *unused)
{
    (void)unused;
    for (int i = 0; i < count; i++)
        if (waits[i]->row->peer == p_unlock || waits[i]->row->peer == p_keep)
            syscall(SYS_futex, &waits[i]->word, FUTEX_LOCK_PI_PRIVATE, 0, NULL);
    pthread_barrier_wait(&ready);
    long long began_ns = now_ns(CLOCK_MONOTONIC);
    for (int i = 0; i < count; i++) {
        if (!waits[i]->row->peer || waits[i]->row->peer == p_keep)
            continue;
        long long ns = began_ns + (first_ms + i * STEP_MS) * 1000000LL - now_ns(CLOCK_MONOTONIC);
        struct timespec left = {ns / NS, ns % NS};
        if (ns > 0)
            syscall(SYS_nanosleep, &left, NULL);
        waits[i]->due_ns = now_ns(CLOCK_MONOTONIC); /* how exactly this thread sleeps is a matter of its own */
        waits[i]->row->peer(waits[i]);
    }
    pause();
    return NULL;
}

static void tell(const struct wait *w)
{
    printf("{\"kind\": \"%s\", \"result\": %ld, \"registers_kept\": %d, \"calls\": %d, \"left_ns\": %lld, "
           "\"mask\": %llu, \"handled\": %d, \"handled_ns\": %lld, \"late_ns\": %lld, \"data\": \"%.20s\"}",
           w->row->name, w->result, w->registers_kept, w->calls, w->left.tv_sec * NS + w->left.tv_nsec,
           (unsigned long long)w->mask, w->handled, w->handled ? w->handled_ns - w->began_ns : 0, w->late_ns, w->data);
}

int main(int argc, char **argv)
{
    if (argc < 5)
        return 2;
    first_ms = atoi(argv[1]);
    again = !strcmp(argv[3], "again");
    struct sigaction action = {.sa_handler = on_usr1, .sa_flags = strcmp(argv[2], "restart") ? 0 : SA_RESTART};
    sigaction(SIGUSR1, &action, NULL);
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    for (int i = 4; i < argc; i++)
        for (int j = 0; j < ROWS; j++)
            if (!strcmp(argv[i], rows[j].name)) {
                struct wait *w = waits[count] = calloc(1, sizeof *w);
                w->row = &rows[j];
                w->index = count++;
                w->fd = w->another = -1;
                if (w->row->prepare)
                    w->row->prepare(w);
            }
    if (count != argc - 4)
        return 2;
    pthread_t threads[ROWS], peer;
    pthread_barrier_init(&ready, NULL, count + 1);
    for (int i = 0; i < count; i++)
        pthread_create(&threads[i], NULL, in_call, waits[i]);
    pthread_create(&peer, NULL, everybodys_peer, NULL);
    for (int i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < count; i++) {
        printf(i ? ",\n" : "[");
        tell(waits[i]);
    }
    puts("]");
    return 0;
}
