/* One function for each blocking call, what it needs, and what a second thread does to end it (p_...); the table of
   all is at the end. A peer never blocks. */

/* -- sleeps */

static long c_nanosleep(struct wait *w) { return CALL(w, SYS_nanosleep, A(&w->given), A(&w->left)); }
static long c_same(struct wait *w) { return CALL(w, SYS_nanosleep, A(&w->given), A(&w->given)); }
static long c_null(struct wait *w) { return CALL(w, SYS_clock_nanosleep, w->row->id, 0, A(&w->given)); }
static long c_relative(struct wait *w) { return CALL(w, SYS_clock_nanosleep, w->row->id, 0, A(&w->given), A(&w->left)); }
static long c_absolute(struct wait *w)
{
    return CALL(w, SYS_clock_nanosleep, w->row->id, TIMER_ABSTIME, A(&w->due), A(&w->left));
}

/* -- futexes */

static long futex(struct wait *w, int op, const struct timespec *timeout, uint32_t *second, int bits)
{
    return CALL(w, SYS_futex, A(&w->word), op | FUTEX_PRIVATE_FLAG, w->word, A(timeout), A(second), bits);
}
static int realtime(struct wait *w) { return w->row->id == CLOCK_REALTIME ? FUTEX_CLOCK_REALTIME : 0; }
static long c_futex(struct wait *w) { return futex(w, FUTEX_WAIT, &w->given, NULL, 0); }
static long c_shared(struct wait *w) { return CALL(w, SYS_futex, A(&w->word), FUTEX_WAIT, w->word, A(&w->given)); }
static long c_futex_forever(struct wait *w) { return futex(w, FUTEX_WAIT, NULL, NULL, 0); }
static long c_futex_woken(struct wait *w) { return futex(w, FUTEX_WAIT, &longer, NULL, 0); }
static long c_bitset(struct wait *w) { return futex(w, FUTEX_WAIT_BITSET | realtime(w), &w->due, NULL, 4); }
static long c_bitset_forever(struct wait *w) { return futex(w, FUTEX_WAIT_BITSET, NULL, NULL, 4); }
static long c_lock_pi(struct wait *w) { return futex(w, FUTEX_LOCK_PI, NULL, NULL, 0); }
static long c_lock_pi_until(struct wait *w) { return futex(w, FUTEX_LOCK_PI, &w->due, NULL, 0); }
static long c_lock_pi2(struct wait *w) { return futex(w, FUTEX_LOCK_PI2 | realtime(w), &w->due, NULL, 0); }
static long c_requeue_pi(struct wait *w) { return futex(w, FUTEX_WAIT_REQUEUE_PI, NULL, &w->other, 0); }
static long c_requeue_pi_until(struct wait *w)
{
    return futex(w, FUTEX_WAIT_REQUEUE_PI | realtime(w), &w->due, &w->other, 0);
}
#define FUTEX2 (2 | FUTEX_PRIVATE_FLAG) /* FUTEX2_SIZE_U32 */
static void n_waitv(struct wait *w)
{
    w->waiter[1] = A(&w->word);
    w->waiter[2] = FUTEX2;
}
static long c_waitv(struct wait *w) { return CALL(w, 449, A(w->waiter), 1, 0, 0, w->row->id); }
static long c_waitv_until(struct wait *w) { return CALL(w, 449, A(w->waiter), 1, 0, A(&w->due), w->row->id); }
static long c_futex2(struct wait *w) { return CALL(w, 455, A(&w->word), w->word, 4, FUTEX2, 0, w->row->id); }
static long c_futex2_until(struct wait *w)
{
    return CALL(w, 455, A(&w->word), w->word, 4, FUTEX2, A(&w->due), w->row->id);
}
static void p_wake(struct wait *w)
{
    w->word = 1;
    syscall(SYS_futex, &w->word, FUTEX_WAKE_BITSET_PRIVATE, 1, NULL, NULL, 4);
}
static void p_unlock(struct wait *w) { syscall(SYS_futex, &w->word, FUTEX_UNLOCK_PI_PRIVATE); }
static void p_keep(struct wait *w) { (void)w; } /* the lock, until all is over */
static void p_requeue(struct wait *w)
{
    syscall(SYS_futex, &w->word, FUTEX_CMP_REQUEUE_PI_PRIVATE, 1, NULL, &w->other, w->word);
}

/* -- waiting for descriptors. By their masks: "masked" holds SIGUSR1 back, "opened" lets it through only inside. */

static void block(uint64_t *set) { syscall(SYS_rt_sigprocmask, SIG_BLOCK, set, NULL, 8); }
static void n_pipe(struct wait *w)
{
    (void)!pipe(w->pipe);
    w->polled = (struct pollfd){w->pipe[0], POLLIN, 0};
    FD_SET(w->pipe[0], &w->set);
}
static void n_epoll(struct wait *w)
{
    n_pipe(w);
    w->fd = epoll_create1(0);
    struct epoll_event watched = {EPOLLIN, {.u64 = 77}};
    epoll_ctl(w->fd, EPOLL_CTL_ADD, w->pipe[0], &watched);
}
static void p_write(struct wait *w) { (void)!write(w->pipe[1], "hello", 5); }
static int ms(struct wait *w) { return w->given.tv_sec * 1000 + w->given.tv_nsec / 1000000; }
static long polled(struct wait *w, long result)
{
    snprintf(w->data, sizeof w->data, "%#x", w->polled.revents);
    return result;
}
static long gone(struct wait *w, long result) /* a timeout that the kernel writes to */
{
    w->left = w->given;
    return result;
}
static long c_poll(struct wait *w) { return polled(w, CALL(w, SYS_poll, A(&w->polled), 1, ms(w))); }
static long c_poll_none(struct wait *w) { return CALL(w, SYS_poll, 0, 0, ms(w)); }
static long c_poll_forever(struct wait *w) { return polled(w, CALL(w, SYS_poll, A(&w->polled), 1, -1)); }
static long polled_by(struct wait *w, uint64_t *mask)
{
    return gone(w, CALL(w, SYS_ppoll, A(&w->polled), 1, A(&w->given), A(mask), 8));
}
static long c_ppoll(struct wait *w) { return polled_by(w, NULL); }
static long c_ppoll_masked(struct wait *w) { return polled_by(w, &usr1_blocked); }
static long c_ppoll_opened(struct wait *w)
{
    block(&usr1_blocked);
    return polled_by(w, &nothing_blocked);
}
static long c_ppoll_forever(struct wait *w) { return polled(w, CALL(w, SYS_ppoll, A(&w->polled), 1, 0, 0, 8)); }
static long selected(struct wait *w, long result)
{
    snprintf(w->data, sizeof w->data, "%d", FD_ISSET(w->pipe[0], &w->set));
    return result;
}
static long c_select(struct wait *w)
{
    long result = selected(w, CALL(w, SYS_select, w->pipe[0] + 1, A(&w->set), 0, 0, A(&w->tv)));
    w->left = (struct timespec){w->tv.tv_sec, w->tv.tv_usec * 1000};
    FD_SET(w->pipe[0], &w->set);
    return result;
}
static long c_select_forever(struct wait *w) { return selected(w, CALL(w, SYS_select, w->pipe[0] + 1, A(&w->set))); }
static long pselect6(struct wait *w, uint64_t *mask)
{
    uint64_t with_size[2] = {A(mask), 8};
    long result = CALL(w, SYS_pselect6, w->pipe[0] + 1, A(&w->set), 0, 0, A(&w->given), A(with_size));
    return gone(w, selected(w, result));
}
static long c_pselect(struct wait *w) { return pselect6(w, &usr1_blocked); }
static long c_pselect_opened(struct wait *w)
{
    block(&usr1_blocked);
    return pselect6(w, &nothing_blocked);
}
static long arrived(struct wait *w, long result)
{
    snprintf(w->data, sizeof w->data, "%d", (int)w->event.data.u64);
    return result;
}
static long c_epoll(struct wait *w) { return arrived(w, CALL(w, SYS_epoll_wait, w->fd, A(&w->event), 1, ms(w))); }
static long c_epoll_forever(struct wait *w) { return arrived(w, CALL(w, SYS_epoll_wait, w->fd, A(&w->event), 1, -1)); }
static long c_epoll_masked(struct wait *w)
{
    return arrived(w, CALL(w, SYS_epoll_pwait, w->fd, A(&w->event), 1, ms(w), A(&usr1_blocked), 8));
}
static long c_epoll_opened(struct wait *w)
{
    block(&usr1_blocked);
    return arrived(w, CALL(w, 441, w->fd, A(&w->event), 1, A(&w->given), A(&nothing_blocked), 8));
}

/* -- signals */

static long c_pause(struct wait *w) { return CALL(w, SYS_pause, 0); }
static long c_suspend(struct wait *w)
{
    block(&usr1_blocked);
    return CALL(w, SYS_rt_sigsuspend, A(&nothing_blocked), 8);
}
static void p_signal(struct wait *w)
{
    if (!w->ended)
        syscall(SYS_tgkill, getpid(), w->tid, SIGUSR1);
}
static void p_usr2(struct wait *w) { syscall(SYS_tgkill, getpid(), w->tid, SIGUSR2); }
static long sigtimedwait_for(struct wait *w, const struct timespec *timeout)
{
    siginfo_t info = {.si_signo = 0};
    long result = CALL(w, SYS_rt_sigtimedwait, A(&usr2_blocked), A(&info), A(timeout), 8);
    snprintf(w->data, sizeof w->data, "%d", info.si_code);
    return result;
}
static long c_sigwait(struct wait *w) { return sigtimedwait_for(w, &w->given); }
static long c_sigwait_forever(struct wait *w) { return sigtimedwait_for(w, NULL); }

/* -- reading and writing */

static void n_event(struct wait *w) { w->fd = eventfd(0, 0); }
static void p_event(struct wait *w) { (void)!write(w->fd, "*-------", 8); }
static void n_inotify(struct wait *w)
{
    mkdir("watched", 0700);
    w->fd = inotify_init1(0);
    inotify_add_watch(w->fd, "watched", IN_CREATE);
}
static void p_create(struct wait *w)
{
    (void)w;
    close(open("watched/created", O_CREAT | O_WRONLY, 0600));
}
static void n_signalfd(struct wait *w) { w->fd = signalfd(-1, (sigset_t *)&usr2_blocked, 0); }
static void n_full(struct wait *w)
{
    n_pipe(w);
    (void)!write(w->pipe[1], w->text, PIPE_BYTES);
    fcntl(w->pipe[0], F_SETFL, O_NONBLOCK);
    w->part = (struct iovec){w->text, 4096};
}
static void p_drain(struct wait *w)
{
    static char room[PIPE_BYTES]; /* of the one thread that is everybody's peer */
    (void)!read(w->pipe[0], room, PIPE_BYTES);
}
static void n_two(struct wait *w)
{
    n_pipe(w);
    (void)!pipe(w->more);
    w->part = (struct iovec){w->data, 20};
}
static void n_file(struct wait *w)
{
    n_full(w);
    w->fd = open("file", O_CREAT | O_RDWR, 0600);
    (void)!write(w->fd, w->text, 4096);
    lseek(w->fd, 0, SEEK_SET);
}
static long c_read(struct wait *w) { return CALL(w, SYS_read, w->pipe[0], A(w->data), 20); }
static long c_read_fd(struct wait *w) { return CALL(w, SYS_read, w->fd, A(w->text), 128); }
static long c_readv(struct wait *w) { return CALL(w, SYS_readv, w->pipe[0], A(&w->part), 1); }
static long c_preadv2(struct wait *w) { return CALL(w, SYS_preadv2, w->pipe[0], A(&w->part), 1, -1ULL, 0, 0); }
static long c_write(struct wait *w) { return CALL(w, SYS_write, w->pipe[1], A(w->text), 4096); }
static long c_writev(struct wait *w) { return CALL(w, SYS_writev, w->pipe[1], A(&w->part), 1); }
static long c_pwritev2(struct wait *w) { return CALL(w, SYS_pwritev2, w->pipe[1], A(&w->part), 1, -1ULL, 0, 0); }
static long c_vmsplice(struct wait *w) { return CALL(w, SYS_vmsplice, w->pipe[1], A(&w->part), 1, 0); }
static long c_sendfile(struct wait *w) { return CALL(w, SYS_sendfile, w->pipe[1], w->fd, 0, 4096); }
static long c_splice(struct wait *w) { return CALL(w, SYS_splice, w->pipe[0], 0, w->more[1], 0, 100, 0); }
static long c_tee(struct wait *w) { return CALL(w, SYS_tee, w->pipe[0], w->more[1], 100, 0); }

/* -- opening a FIFO, which waits for its other end; locks, between two descriptions of one file */

static void n_fifo(struct wait *w) { mkfifo(w->row->name, 0600); }
static long opened(long result) { return result < 0 ? result : 0; } /* which number it gets is chance here */
static long c_open(struct wait *w) { return opened(CALL(w, SYS_open, A(w->row->name), O_RDONLY)); }
static long c_openat(struct wait *w) { return opened(CALL(w, SYS_openat, AT_FDCWD, A(w->row->name), O_RDONLY)); }
static long c_openat2(struct wait *w)
{
    uint64_t how[3] = {O_RDONLY, 0, 0};
    return opened(CALL(w, 437, AT_FDCWD, A(w->row->name), A(how), sizeof how));
}
static long c_creat(struct wait *w) { return opened(CALL(w, SYS_creat, A(w->row->name), 0600)); }
static void p_open_to_write(struct wait *w) { w->another = open(w->row->name, O_WRONLY | O_NONBLOCK); }
static void p_open_to_read(struct wait *w) { w->another = open(w->row->name, O_RDONLY | O_NONBLOCK); }

static void n_flock(struct wait *w)
{
    w->fd = open(w->row->name, O_CREAT | O_RDWR, 0600);
    w->another = open(w->row->name, O_RDWR);
    flock(w->another, LOCK_EX);
}
static long c_flock(struct wait *w) { return CALL(w, SYS_flock, w->fd, LOCK_EX); }
static void p_flock(struct wait *w) { flock(w->another, LOCK_UN); }
static struct flock whole_file = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
static void n_ofd_lock(struct wait *w)
{
    n_flock(w);
    flock(w->another, LOCK_UN);
    fcntl(w->another, F_OFD_SETLK, &whole_file);
}
static long c_ofd_lock(struct wait *w) { return CALL(w, SYS_fcntl, w->fd, F_OFD_SETLKW, A(&whole_file)); }
static void p_ofd_lock(struct wait *w)
{
    struct flock none = {.l_type = F_UNLCK, .l_whence = SEEK_SET};
    fcntl(w->another, F_OFD_SETLK, &none);
}
/* The lock on the file LOCKED is another process's: the test's. */
static void n_posix_lock(struct wait *w) { w->fd = open(getenv("LOCKED"), O_RDWR); }
static long c_posix_lock(struct wait *w) { return CALL(w, SYS_fcntl, w->fd, F_SETLKW, A(&whole_file)); }

/* -- System V, on objects that the test makes and removes: MSG_EMPTY, MSG_FULL and SEM are their numbers */

struct message {
    long type;
    char text[MESSAGE_BYTES];
};
static int number(const char *name) { return getenv(name) ? atoi(getenv(name)) : -1; }
static void n_empty_queue(struct wait *w) { w->fd = number("MSG_EMPTY"); }
static void n_full_queue(struct wait *w)
{
    struct message message = {.type = 5};
    w->fd = number("MSG_FULL");
    while (msgsnd(w->fd, &message, MESSAGE_BYTES, IPC_NOWAIT) == 0)
        ;
}
static long c_msgrcv(struct wait *w) { return CALL(w, SYS_msgrcv, w->fd, A(w->text), MESSAGE_BYTES, 0, 0); }
static long c_msgsnd(struct wait *w)
{
    *(long *)w->text = 6;
    return CALL(w, SYS_msgsnd, w->fd, A(w->text), MESSAGE_BYTES, 0);
}
static void p_msgsnd(struct wait *w)
{
    struct message message = {.type = 5};
    msgsnd(w->fd, &message, 9, IPC_NOWAIT);
}
static void p_msgrcv(struct wait *w)
{
    struct message message;
    msgrcv(w->fd, &message, MESSAGE_BYTES, 0, IPC_NOWAIT);
}
static void n_semaphore(struct wait *w) { w->fd = number("SEM"); }
static long c_semop(struct wait *w)
{
    struct sembuf down = {.sem_num = 0, .sem_op = -1};
    return CALL(w, SYS_semop, w->fd, A(&down), 1);
}
static long c_semtimedop(struct wait *w)
{
    struct sembuf down = {.sem_num = 1, .sem_op = -1};
    return CALL(w, SYS_semtimedop, w->fd, A(&down), 1, A(&w->given));
}
static void p_semop(struct wait *w)
{
    struct sembuf up = {.sem_num = 0, .sem_op = 1};
    semop(w->fd, &up, 1);
}

/* -- sockets */

static struct sockaddr_un named(struct wait *w)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", w->row->name);
    return address;
}
static void n_server(struct wait *w)
{
    struct sockaddr_un address = named(w);
    w->fd = socket(AF_UNIX, SOCK_STREAM, 0);
    w->another = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    bind(w->fd, (struct sockaddr *)&address, sizeof address);
    listen(w->fd, 0);
}
static long c_accept(struct wait *w) { return opened(CALL(w, SYS_accept, w->fd, 0, 0)); }
static long c_accept4(struct wait *w) { return opened(CALL(w, SYS_accept4, w->fd, 0, 0, 0)); }
static void p_connect(struct wait *w)
{
    struct sockaddr_un address = named(w);
    (void)!connect(w->another, (struct sockaddr *)&address, sizeof address);
}
static void n_busy_server(struct wait *w)
{
    n_server(w);
    p_connect(w);
    fcntl(w->fd, F_SETFL, O_NONBLOCK);
    w->more[0] = socket(AF_UNIX, SOCK_STREAM, 0);
}
static long c_connect(struct wait *w)
{
    struct sockaddr_un address = named(w);
    return CALL(w, SYS_connect, w->more[0], A(&address), sizeof address);
}
static void p_accept(struct wait *w) { w->more[1] = accept(w->fd, NULL, NULL); }
static void n_pair(struct wait *w)
{
    (void)!socketpair(AF_UNIX, SOCK_STREAM, 0, w->pipe);
    w->part = (struct iovec){w->text, 20};
    w->messages[0].msg_hdr = (struct msghdr){.msg_iov = &w->part, .msg_iovlen = 1};
}
/* In pieces as large as may be: how full a stream is, the kernel reckons by the memory that its pieces take. */
static void n_full_pair(struct wait *w)
{
    n_pair(w);
    while (send(w->pipe[1], w->text, PIPE_BYTES, MSG_DONTWAIT) > 0)
        ;
}
static void p_receive(struct wait *w)
{
    static char room[4 * PIPE_BYTES];
    while (recv(w->pipe[0], room, sizeof room, MSG_DONTWAIT) > 0)
        ;
}
static long c_recvfrom(struct wait *w) { return CALL(w, SYS_recvfrom, w->pipe[0], A(w->data), 20); }
static long c_recvmsg(struct wait *w) { return CALL(w, SYS_recvmsg, w->pipe[0], A(&w->messages->msg_hdr), 0); }
static long c_recvmmsg(struct wait *w) { return CALL(w, SYS_recvmmsg, w->pipe[0], A(w->messages), 1, 0, 0); }
static long c_sendto(struct wait *w) { return CALL(w, SYS_sendto, w->pipe[1], A(w->text), 20); }
static long c_sendmsg(struct wait *w) { return CALL(w, SYS_sendmsg, w->pipe[1], A(&w->messages->msg_hdr), 0); }
static long c_sendmmsg(struct wait *w) { return CALL(w, SYS_sendmmsg, w->pipe[1], A(w->messages), 1, 0); }

/* -- the same with a timeout of the socket's own, which is not what ends them */

static void timed(int fd, int option)
{
    struct timeval timeout = {LONG, 0};
    setsockopt(fd, SOL_SOCKET, option, &timeout, sizeof timeout);
}
static void n_timed_pair(struct wait *w)
{
    n_pair(w);
    w->part.iov_len = 5;
    timed(w->pipe[0], SO_RCVTIMEO);
}
static void n_timed_full(struct wait *w)
{
    n_full_pair(w);
    timed(w->pipe[1], SO_SNDTIMEO);
}
static void n_timed_server(struct wait *w)
{
    n_server(w);
    timed(w->fd, SO_RCVTIMEO);
}
static void n_timed_receiver(struct wait *w)
{
    struct sockaddr_un address = named(w);
    w->fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    w->another = socket(AF_UNIX, SOCK_DGRAM, 0);
    bind(w->fd, (struct sockaddr *)&address, sizeof address);
    while (sendto(w->another, "full", 4, MSG_DONTWAIT, (struct sockaddr *)&address, sizeof address) > 0)
        ;
    timed(w->another, SO_SNDTIMEO);
}
static void p_receive_one(struct wait *w) { (void)!recv(w->fd, w->data, 4, MSG_DONTWAIT); }
static long c_recvmsg_all(struct wait *w)
{
    return CALL(w, SYS_recvmsg, w->pipe[0], A(&w->messages->msg_hdr), MSG_WAITALL);
}
static long c_sendto_named(struct wait *w)
{
    struct sockaddr_un address = named(w);
    return CALL(w, SYS_sendto, w->another, A(w->text), 20, 0, A(&address), sizeof address);
}

/* -- children, who wait to be killed */

static void n_child(struct wait *w)
{
    w->another = fork();
    while (!w->another)
        pause();
}
static void p_kill(struct wait *w) { kill(w->another, SIGKILL); }
static long c_wait4(struct wait *w)
{
    int status = 0;
    long result = CALL(w, SYS_wait4, w->another, A(&status), 0, 0);
    snprintf(w->data, sizeof w->data, "%#x", status);
    return result == w->another ? 0 : result;
}
static long c_waitid(struct wait *w)
{
    siginfo_t info = {.si_signo = 0};
    long result = CALL(w, SYS_waitid, P_PID, w->another, A(&info), WEXITED, 0);
    snprintf(w->data, sizeof w->data, "%d %d", info.si_code, info.si_status);
    return result;
}

/* -- POSIX message queues, of which only this program knows */

static void n_mqueue(struct wait *w)
{
    struct mq_attr attributes = {.mq_maxmsg = 1, .mq_msgsize = 32};
    char name[32];
    snprintf(name, sizeof name, "livecr-%d-%.15s", getpid(), w->row->name);
    w->fd = syscall(SYS_mq_open, name, O_CREAT | O_EXCL | O_RDWR, 0600, &attributes);
    syscall(SYS_mq_unlink, name);
}
static void p_mq_send(struct wait *w) { syscall(SYS_mq_timedsend, w->fd, "hello", 5, 0, NULL); }
static void p_mq_receive(struct wait *w)
{
    char room[32];
    syscall(SYS_mq_timedreceive, w->fd, room, sizeof room, NULL, NULL);
}
static void n_full_mqueue(struct wait *w)
{
    n_mqueue(w);
    p_mq_send(w);
}
static long c_mq_receive(struct wait *w) { return CALL(w, SYS_mq_timedreceive, w->fd, A(w->data), 32, 0, 0); }
static long c_mq_receive_until(struct wait *w)
{
    return CALL(w, SYS_mq_timedreceive, w->fd, A(w->data), 32, 0, A(&w->due));
}
static long c_mq_send(struct wait *w) { return CALL(w, SYS_mq_timedsend, w->fd, A(w->text), 9, 0, 0); }

/* -- completions, of which none come */

static void n_aio(struct wait *w) { syscall(SYS_io_setup, 4, &w->context); }
static long c_getevents(struct wait *w)
{
    return CALL(w, SYS_io_getevents, w->context, 1, 1, A(w->text), A(&w->given));
}
static long c_pgetevents(struct wait *w)
{
    return CALL(w, 333, w->context, 1, 1, A(w->text), A(&w->given), 0);
}
static void n_ring(struct wait *w)
{
    struct io_uring_params parameters = {0};
    w->fd = syscall(425, 2, &parameters);
}
static long c_uring(struct wait *w)
{
    uint64_t arg[3] = {0, 0, A(&w->given)}; /* struct io_uring_getevents_arg */
    return CALL(w, 426, w->fd, 0, 1, IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, A(arg), sizeof arg);
}
