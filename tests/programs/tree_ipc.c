/* build: -lrt
   A parent and its child that work together by IPC: a removed segment that both have attached, a semaphore that the
   child has taken with SEM_UNDO and for which the parent waits, an unlinked message queue of which the child will be
   told. usage: tree_ipc; prints "ready PARENT CHILD". SIGUSR1 to the child: it sends itself a message, is told of it,
   writes to the segment and gives the semaphore back; the parent then prints "ok" or what is different. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile sig_atomic_t go, told;
static void on_usr1(int s) { (void)s; go = 1; }
static void on_usr2(int s, siginfo_t *info, void *c) { (void)s, (void)c; told = info->si_value.sival_int; }

struct shared { int started; char text[64]; };

static void operate(int set, int by)
{
    struct sembuf operation = {0, (short)by, SEM_UNDO};
    if (semop(set, &operation, 1)) { perror("semop"); exit(1); }
}

static int child(int set, struct shared *shared, mqd_t queue)
{
    sigset_t blocked, before;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    sigprocmask(SIG_BLOCK, &blocked, &before);
    sigaction(SIGUSR1, &(struct sigaction){.sa_handler = on_usr1}, NULL);
    sigaction(SIGUSR2, &(struct sigaction){.sa_sigaction = on_usr2, .sa_flags = SA_SIGINFO}, NULL);
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR2, .sigev_value.sival_int = 99};
    if (mq_notify(queue, &event)) return perror("mq_notify"), 1;
    operate(set, -1);
    shared->started = getpid();
    while (!go) sigsuspend(&before);
    if (mq_send(queue, "m", 1, 0)) return perror("mq_send"), 1;
    snprintf(shared->text, sizeof shared->text, "told %d", (int)told);
    operate(set, 1);
    return 0;
}

int main(void)
{
    char name[64], got[8];
    int id = shmget(IPC_PRIVATE, sizeof(struct shared), 0600), set = semget(IPC_PRIVATE, 1, 0600);
    struct shared *shared = shmat(id, NULL, 0);
    struct mq_attr attributes = {.mq_maxmsg = 1, .mq_msgsize = 8};
    snprintf(name, sizeof name, "/livecr-tree-%d", getpid());
    mqd_t queue = mq_open(name, O_RDWR | O_CREAT | O_EXCL | O_NONBLOCK, 0600, &attributes);
    if (id < 0 || set < 0 || queue < 0 || semctl(set, 0, SETVAL, 1)) return perror("making them"), 1;
    mq_unlink(name);
    shmctl(id, IPC_RMID, NULL);
    pid_t pid = fork();
    if (pid == 0) {
        mq_close(queue); /* and with it nobody's registration */
        snprintf(name, sizeof name, "/proc/%d/fd/%d", getppid(), queue);
        return child(set, shared, open(name, O_RDWR | O_NONBLOCK));
    }
    while (!shared->started) usleep(1000);
    printf("ready %d %d\n", getpid(), pid);
    fflush(stdout);
    operate(set, -1);
    int status, right = !strcmp(shared->text, "told 99") && shared->started == pid;
    if (!right) printf("different: the child has said \"%s\"\n", shared->text);
    if (mq_receive(queue, got, 8, NULL) != 1) right = 0, printf("different: no message: %s\n", strerror(errno));
    waitpid(pid, &status, 0);
    struct shmid_ds about;
    if (shmctl(id, IPC_STAT, &about) || about.shm_nattch != 1) right = 0, puts("different: not one attachment is left");
    semctl(set, 0, IPC_RMID);
    puts(right && !status ? "ok" : "failed");
    return !right;
}
