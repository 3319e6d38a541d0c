/* Uses System V segments and semaphores: attached for writing and reading only, in parts, one that is removed already;
   semaphores taken and given with SEM_UNDO.
   usage: kind_sysv KEY; prints the ids of its segments and of its set, and "ready". After SIGUSR1 it checks all of it,
   detaches, and prints "ok" or what is different. What it leaves behind is for the caller to look at and to remove. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <unistd.h>

#define PAGE 4096
#define SIZE (5 * PAGE + 10)

static int failures;
#define CHECK(what, ...) do { if (!(what)) { failures++; printf("different: " __VA_ARGS__); putchar('\n'); } } while (0)

static volatile sig_atomic_t go;
static void on_usr1(int s) { (void)s; go = 1; }

static void *attach(int id, int flags)
{
    void *at = shmat(id, NULL, flags);
    if (at == (void *)-1) { perror("shmat"); exit(1); }
    return at;
}

/* How mincore sees a page of our address space: -1 if nothing is mapped there. */
static int is_mapped(char *page)
{
    unsigned char there;
    return mincore(page, PAGE, &there) == 0;
}

static void operate(int set, int number, int by, int flags)
{
    struct sembuf operation = {(unsigned short)number, (short)by, (short)flags};
    if (semop(set, &operation, 1)) { perror("semop"); exit(1); }
}

int main(int argc, char **argv)
{
    if (argc != 2) return 2;
    key_t key = (key_t)strtol(argv[1], NULL, 0);
    setvbuf(stdout, NULL, _IOLBF, 0);
    sigset_t blocked, before;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    sigprocmask(SIG_BLOCK, &blocked, &before);
    sigaction(SIGUSR1, &(struct sigaction){.sa_handler = on_usr1}, NULL);

    int id = shmget(key, SIZE, IPC_CREAT | IPC_EXCL | 0640), removed = shmget(IPC_PRIVATE, PAGE, 0600);
    int set = semget(key, 3, IPC_CREAT | IPC_EXCL | 0604);
    if (id < 0 || removed < 0 || set < 0) return perror("making them"), 1;
    struct shmid_ds about = {.shm_perm = {.uid = 1000, .gid = 100, .mode = 0640}};
    if (shmctl(id, IPC_SET, &about) || shmctl(id, SHM_LOCK, NULL)) return perror("shmctl"), 1;

    char *writing = attach(id, 0), *reading = attach(id, SHM_RDONLY), *gone = attach(removed, 0);
    for (int i = 0; i < 2 * PAGE; i++) writing[i] = (char)(i * 7);
    strcpy(writing + 3 * PAGE, "behind a hole");
    strcpy(writing + SIZE, "behind the end");
    if (mprotect(writing + PAGE, PAGE, PROT_READ) || munmap(reading + 2 * PAGE, PAGE)) return perror("mprotect"), 1;
    if (mmap(reading + 2 * PAGE, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED) return 1;
    strcpy(gone, "removed");
    if (shmctl(removed, IPC_RMID, NULL)) return perror("IPC_RMID"), 1;

    unsigned short values[3] = {5, 1, 0}, now[3];
    if (semctl(set, 0, SETALL, values)) return perror("SETALL"), 1;
    operate(set, 1, -1, SEM_UNDO);
    operate(set, 0, 4, SEM_UNDO);
    operate(set, 0, -1, SEM_UNDO);
    operate(set, 2, 6, 0);
    printf("%d %d %d\nready\n", id, removed, set);
    while (!go) sigsuspend(&before);

    for (int i = 0; i < 2 * PAGE; i++)
        if (writing[i] != (char)(i * 7)) { CHECK(0, "byte %d", i); break; }
    for (int i = 2 * PAGE; i < 3 * PAGE; i++)
        if (writing[i]) { CHECK(0, "byte %d of the hole", i); break; }
    CHECK(!strcmp(writing + 3 * PAGE, "behind a hole") && !strcmp(reading + SIZE, "behind the end"), "what is further on");
    strcpy(writing + 4 * PAGE, "shared");
    CHECK(!strcmp(reading + 4 * PAGE, "shared"), "the two are not one segment");
    CHECK(mprotect(reading, PAGE, PROT_READ | PROT_WRITE) && errno == EACCES, "the one for reading can be written to");
    CHECK(!mprotect(writing + PAGE, PAGE, PROT_READ | PROT_WRITE), "the one for writing cannot be written to");
    CHECK(reading[2 * PAGE] == 0, "the memory in its middle");
    CHECK(!shmctl(id, IPC_STAT, &about), "IPC_STAT: %m");
    CHECK(about.shm_perm.__key == key && about.shm_perm.uid == 1000 && about.shm_perm.gid == 100 && about.shm_perm.cuid == 0 &&
          about.shm_perm.mode == (0640 | SHM_LOCKED) && about.shm_segsz == SIZE && about.shm_cpid == getpid(),
          "key %x, owner %d:%d, creator %d, mode %o, size %zu, made by %d", about.shm_perm.__key, about.shm_perm.uid,
          about.shm_perm.gid, about.shm_perm.cuid, about.shm_perm.mode, about.shm_segsz, about.shm_cpid);
    /* The kernel counts parts, and never joins them again: one is in three, the other in two. */
    CHECK(about.shm_nattch == 5, "attached %lu times", (unsigned long)about.shm_nattch);
    CHECK(!shmdt(writing) && !is_mapped(writing) && !is_mapped(writing + PAGE) && !is_mapped(writing + 5 * PAGE), "shmdt");
    CHECK(!shmdt(reading) && !is_mapped(reading) && is_mapped(reading + 2 * PAGE) && !is_mapped(reading + 5 * PAGE),
          "shmdt of the one for reading");
    CHECK(!shmctl(id, IPC_STAT, &about) && about.shm_nattch == 0, "still attached");

    CHECK(!strcmp(gone, "removed") && !shmctl(removed, IPC_STAT, &about) && about.shm_perm.mode == (0600 | SHM_DEST), "the removed one");
    CHECK(!shmdt(gone) && shmctl(removed, IPC_STAT, &about) && errno == EINVAL, "it outlives its last user");

    CHECK(!semctl(set, 0, GETALL, now) && now[0] == 8 && now[1] == 0 && now[2] == 6, "the semaphores are %d, %d, %d", now[0], now[1], now[2]);
    struct semid_ds group;
    CHECK(!semctl(set, 0, IPC_STAT, &group) && group.sem_perm.__key == key && group.sem_perm.mode == 0604 && group.sem_nsems == 3,
          "key, mode or size of the set");
    CHECK(semctl(set, 1, GETPID) == getpid(), "it was taken by %d", semctl(set, 1, GETPID));
    puts(failures ? "failed" : "ok");
    return failures != 0;
}
