/* build: -lrt
   Blocks in one call of System V or POSIX IPC, by the kind named in the first argument, until it is due: after as many
   milliseconds as the second says, either by its own timeout or because a second thread then does what it waits for.
   Prints as JSON what the call gave back, and how far beyond the due time it came back. Its objects are removed as
   soon as the kernel allows that. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define NS 1000000000LL

static mqd_t queue;
static int id, set, milliseconds;
static struct timespec due, never;
static unsigned priority;
static struct { long type; char text[16]; } message = {5, "hello"}, other = {5, "other"};

static long long now_ns(int clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * NS + t.tv_nsec;
}

/* -- the calls */

static long c_receive(void) { return mq_timedreceive(queue, message.text, 16, &priority, &due); }
static long c_receive_woken(void) { return mq_timedreceive(queue, message.text, 16, &priority, &never); }
static long c_receive_forever(void) { return mq_receive(queue, message.text, 16, &priority); }
static long c_send(void) { return mq_timedsend(queue, "second", 6, 2, &due); }
static long c_send_woken(void) { return mq_timedsend(queue, "second", 6, 2, &never); }
static long c_send_forever(void) { return mq_send(queue, "second", 6, 2); }
static long c_msgrcv(void) { return msgrcv(id, &message, 16, 5, 0); }
static long c_msgrcv_less(void) { return msgrcv(id, &message, 3, -9, MSG_NOERROR); }
static long c_msgsnd(void) { return msgsnd(id, &other, 16, 0); }
static long operate(int number, int by) { return semop(set, &(struct sembuf){(unsigned short)number, (short)by, 0}, 1); }
#ifdef SYS_semop
static long c_semop(void) { return syscall(SYS_semop, set, &(struct sembuf){1, -3, 0}, 1); }
#else /* a 32-bit program */
static long c_semop(void) { return syscall(SYS_ipc, 1, set, 1, 0, &(struct sembuf){1, -3, 0}); }
#endif
static long c_semop_glibc(void) { return operate(1, -3); } /* semtimedop without a timeout */

/* -- what the second thread does when it is time */

static void p_send(void) { mq_send(queue, "woken", 5, 9); }
static void p_receive(void)
{
    mq_receive(queue, message.text, 16, NULL);
    usleep(1000);
    mq_receive(queue, message.text, 16, &priority);
}
static void p_msgsnd(void)
{
    other.type = 7;
    msgsnd(id, &other, 16, 0); /* of another type than msgrcv waits for, but below 9 */
    other.type = 5;
    msgsnd(id, &other, 16, 0);
}
static void p_msgrcv(void) { msgrcv(id, &message, 16, 0, 0); }
static void p_semop(void) { operate(1, 1); }

static const struct row {
    const char *name;
    long (*call)(void);
    void (*peer)(void);
} rows[] = {
    {"receive", c_receive, NULL},
    {"receive-woken", c_receive_woken, p_send},
    {"receive-forever", c_receive_forever, p_send},
    {"send", c_send, NULL},
    {"send-woken", c_send_woken, p_receive},
    {"send-forever", c_send_forever, p_receive},
    {"msgrcv", c_msgrcv, p_msgsnd},
    {"msgrcv-less", c_msgrcv_less, p_msgsnd},
    {"msgsnd", c_msgsnd, p_msgrcv},
    {"semop", c_semop, p_semop},
    {"semop-glibc", c_semop_glibc, p_semop},
};

static const struct row *row;

static void *peer(void *running)
{
    struct timespec wait = {milliseconds / 1000, milliseconds % 1000 * 1000000L};
    *(volatile int *)running = 1;
    nanosleep(&wait, NULL);
    row->peer();
    pause();
    return NULL;
}

static void prepare(void)
{
    if (row->peer == p_semop) {
        set = semget(IPC_PRIVATE, 2, 0600);
        if (set < 0 || operate(1, 2)) exit(2);
        return;
    }
    if (row->call == c_msgrcv || row->call == c_msgrcv_less || row->call == c_msgsnd) {
        id = msgget(IPC_PRIVATE, 0600);
        struct msqid_ds about;
        if (id < 0 || msgctl(id, IPC_STAT, &about)) exit(2);
        about.msg_qbytes = 40; /* two of 16 bytes */
        if (msgctl(id, IPC_SET, &about)) exit(2);
        for (int i = 0; i < 2 && row->call == c_msgsnd; i++)
            if (msgsnd(id, &other, 16, 0)) exit(2);
        return;
    }
    struct mq_attr attributes = {.mq_maxmsg = 1, .mq_msgsize = 16};
    char name[64];
    snprintf(name, sizeof name, "/livecr-wait-%d", getpid());
    queue = mq_open(name, O_RDWR | O_CREAT | O_EXCL, 0600, &attributes);
    if (queue < 0) exit(2);
    mq_unlink(name);
    if (strstr(row->name, "send") && mq_send(queue, "first", 5, 1)) exit(2);
}

int main(int argc, char **argv)
{
    for (size_t i = 0; i < sizeof rows / sizeof *rows && argc > 2; i++)
        if (!strcmp(argv[1], rows[i].name))
            row = &rows[i];
    if (!row) return 2;
    milliseconds = atoi(argv[2]);
    prepare();
    int clock = row->peer ? CLOCK_MONOTONIC : CLOCK_REALTIME;
    long long due_ns = now_ns(clock) + milliseconds * 1000000LL;
    due = (struct timespec){due_ns / NS, due_ns % NS};
    never = (struct timespec){time(NULL) + 600, 0};
    volatile int running = 0;
    pthread_t thread;
    if (row->peer && pthread_create(&thread, NULL, peer, (void *)&running)) return 2;
    while (row->peer && !running) usleep(1000);
    printf("%d %d\n", id, set);
    fflush(stdout);
    errno = 0;
    long result = row->call();
    int number = result < 0 ? errno : 0;
    long long late_ns = now_ns(clock) - due_ns;
    if (row->peer == p_receive) usleep(20000); /* until it has received what was sent */
    if (row->peer == p_semop)
        snprintf(message.text, sizeof message.text, "%d %d", semctl(set, 0, GETVAL), semctl(set, 1, GETVAL));
    if (row->peer == p_semop) semctl(set, 0, IPC_RMID);
    else if (!queue) msgctl(id, IPC_RMID, NULL);
    printf("{\"result\": %ld, \"errno\": %d, \"late_ns\": %lld, \"priority\": %u, \"type\": %ld, \"data\": \"%.16s\"}\n",
           result, number, late_ns, priority, message.type, message.text);
    return 0;
}
