/* Process trees that check themselves.
   usage: tree KIND; prints "ready" when all of it stands; after SIGUSR1 (to the first process) it looks whether all is
   as it was and prints "ok" or what is different. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int failures;
#define CHECK(what, ...) do { if (!(what)) { failures++; printf("different: " __VA_ARGS__); putchar('\n'); } } while (0)

/* What all processes tell each other through: shared since before the first fork. */
static struct shared {
    volatile int standing, go;
    volatile pid_t pids[4096];
    volatile int answers[4096];
} *shared;

static void ready(void)
{
    sigset_t usr1;
    int number;
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    puts("ready");
    fflush(stdout);
    sigwait(&usr1, &number);
}

static void until_standing(int count)
{
    while (shared->standing < count)
        usleep(1000);
}

static void stands(int place)
{
    shared->pids[place] = getpid();
    __atomic_add_fetch(&shared->standing, 1, __ATOMIC_SEQ_CST);
}

static void until_go(void)
{
    while (!shared->go)
        usleep(2000);
}

static void expect_end(pid_t pid, int status)
{
    int told = -1;
    pid_t got = waitpid(pid, &told, 0);
    CHECK(got == pid && told == status, "child %d ended with %#x, not %#x (%d, %s)", pid, told, status, got, strerror(errno));
}

/* -- parents and children: each child blocked in another call, ended by its parent ------------------------- */

static void family(void)
{
    int in[2], out[2], status;
    pid_t reader, sleeper, waiter;
    if (pipe(in) || pipe(out)) exit(2);
    if (!(reader = fork())) {
        char byte;
        stands(0);
        if (read(in[0], &byte, 1) != 1 || byte != 'x') _exit(1);
        _exit(write(out[1], "y", 1) == 1 && getppid() == shared->pids[9] ? 11 : 2);
    }
    if (!(sleeper = fork())) {
        stands(1);
        for (;;) pause();
    }
    if (!(waiter = fork())) {
        pid_t grandchild = fork();
        if (!grandchild) {
            stands(3);
            until_go();
            _exit(getppid() == shared->pids[2] ? 33 : 3);
        }
        stands(2);
        if (waitpid(grandchild, &status, 0) != grandchild) _exit(4);
        _exit(WEXITSTATUS(status) + 1);
    }
    shared->pids[9] = getpid();
    until_standing(4);
    ready();
    char byte = 0;
    CHECK(shared->pids[9] == getpid(), "the first process has another number");
    CHECK(shared->pids[0] == reader && shared->pids[1] == sleeper, "a child has another number");
    CHECK(write(in[1], "x", 1) == 1 && read(out[0], &byte, 1) == 1 && byte == 'y', "the pipes are not joined");
    expect_end(reader, W_EXITCODE(11, 0));
    kill(sleeper, SIGTERM);
    expect_end(sleeper, SIGTERM);
    shared->go = 1;
    expect_end(waiter, W_EXITCODE(34, 0));
    CHECK(wait(NULL) == -1 && errno == ECHILD, "there is a child too many");
}

/* -- sessions and groups ----------------------------------------------------------------------------------- */

struct member { pid_t pid, pgid, sid, ppid; };
static struct member seen(void) { return (struct member){getpid(), getpgid(0), getsid(0), getppid()}; }

static void check_member(const char *name, struct member was)
{
    struct member now = seen();
    CHECK(now.pid == was.pid, "%s: pid %d, was %d", name, now.pid, was.pid);
    CHECK(now.pgid == was.pgid, "%s: group %d, was %d", name, now.pgid, was.pgid);
    CHECK(now.sid == was.sid, "%s: session %d, was %d", name, now.sid, was.sid);
    CHECK(now.ppid == was.ppid || !was.ppid, "%s: parent %d, was %d", name, now.ppid, was.ppid);
    fflush(stdout);
}

static void member(const char *name, int place)
{
    while (getppid() != shared->pids[100 + place] && shared->pids[100 + place]) /* to be taken in by the subreaper */
        usleep(1000);
    struct member was = seen();
    stands(place);
    until_go();
    failures = 0;
    check_member(name, was);
    while (wait(NULL) > 0) ;
    shared->answers[place] = failures ? 2 : 1;
    _exit(0);
}

static void sessions(void)
{
    enum { LEADER, IN_SESSION, OWN_GROUP, OTHERS_GROUP, ORPHAN, ORPHANS_CHILD, GROUP_OF_DEAD, BEFORE, LATE, COUNT };
    pid_t pid, first = getpid();
    int status;
    setsid();
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    /* a session of its own with two more in it, one in a group of its own */
    if (!fork()) {
        setsid();
        if (!fork()) member("in a child's session", IN_SESSION);
        if (!fork()) { setpgid(0, 0); member("a group of its own", OWN_GROUP); }
        member("leader of a session", LEADER);
    }
    until_standing(3);
    /* in a group whose leader is a sibling */
    pid_t sibling = fork();
    if (!sibling) { setpgid(0, 0); member("a sibling leads its group", LATE); }
    setpgid(sibling, sibling);
    if (!fork()) { setpgid(0, sibling); member("a sibling's group", OTHERS_GROUP); }
    /* daemons: the leader of the session has ended, and the first process has taken them in */
    shared->pids[100 + ORPHAN] = first;
    if (!(pid = fork())) {
        setsid();
        if (!fork()) {
            if (!fork()) member("an orphan's child", ORPHANS_CHILD);
            member("an orphan in a session without leader", ORPHAN);
        }
        _exit(0);
    }
    waitpid(pid, &status, 0);
    /* a group whose leader has ended */
    if (!(pid = fork())) { setpgid(0, 0); pause(); _exit(0); }
    setpgid(pid, pid);
    pid_t in_group = fork();
    if (!in_group) { setpgid(0, pid); member("a group without leader", GROUP_OF_DEAD); }
    while (shared->pids[GROUP_OF_DEAD] == 0) usleep(1000);
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    /* born before its parent began a session */
    if (!(pid = fork())) {
        if (!fork()) member("born before its parent's session", BEFORE);
        setsid();
        until_go();
        while (wait(NULL) > 0) ;
        _exit(0);
    }
    until_standing(COUNT);
    struct member was = seen();
    was.ppid = 0; /* whoever restores it */
    ready();
    check_member("the first", was);
    int subreaper = 0;
    prctl(PR_GET_CHILD_SUBREAPER, &subreaper);
    CHECK(subreaper == 1, "it is no subreaper any more");
    shared->go = 1;
    while (wait(NULL) > 0) ;
    for (int i = 0; i < COUNT; i++)
        CHECK(shared->answers[i] == 1, "member %d says %d", i, shared->answers[i]);
}

/* -- children that have ended ------------------------------------------------------------------------------ */

static volatile sig_atomic_t children_told;
static void on_child(int s) { (void)s; children_told++; }

static void zombies(void)
{
    sigset_t block, old, pending;
    pid_t exited, killed, terminated, grouped;
    struct sigaction action = {.sa_handler = on_child};
    sigaction(SIGCHLD, &action, NULL);
    sigemptyset(&block);
    sigaddset(&block, SIGCHLD);
    sigprocmask(SIG_BLOCK, &block, &old);
    if (!(exited = fork())) _exit(7);
    if (!(killed = fork())) for (;;) pause();
    if (!(terminated = fork())) for (;;) pause();
    if (!(grouped = fork())) { setsid(); prctl(PR_SET_NAME, "a \"name\""); _exit(0); }
    kill(killed, SIGKILL);
    kill(terminated, SIGTERM);
    siginfo_t info;
    pid_t all[] = {exited, killed, terminated, grouped};
    for (int i = 0; i < 4; i++)
        waitid(P_PID, (id_t)all[i], &info, WEXITED | WNOWAIT);
    ready();
    sigpending(&pending);
    CHECK(sigismember(&pending, SIGCHLD) == 1, "SIGCHLD is not due any more");
    CHECK(children_told == 0, "SIGCHLD was handled while it was blocked");
    sigprocmask(SIG_SETMASK, &old, NULL);
    CHECK(children_told == 1, "SIGCHLD was handled %d times", children_told);
    CHECK(waitid(P_PID, (id_t)terminated, &info, WEXITED | WNOWAIT) == 0 && info.si_code == CLD_KILLED && info.si_status == SIGTERM, "waitid tells %d %d", info.si_code, info.si_status);
    char path[64], name[32] = "";
    snprintf(path, sizeof path, "/proc/%d/comm", grouped);
    FILE *comm = fopen(path, "r");
    CHECK(comm && fgets(name, sizeof name, comm) && !strcmp(name, "a \"name\"\n"), "its name is %s", name);
    CHECK(getsid(grouped) == grouped, "it is in session %d", getsid(grouped));
    expect_end(exited, W_EXITCODE(7, 0));
    expect_end(killed, SIGKILL);
    expect_end(terminated, SIGTERM);
    expect_end(grouped, 0);
}

/* -- children that are stopped: two whose parent has been told, one of which sleeps; two of which it has not, one of them
   as by ^Z, in a group of its own: that of the first process would ignore it ---- */

static void stopped(void)
{
    enum { TOLD, SLEEPING, UNTOLD, TYPED, COUNT };
    pid_t pids[COUNT];
    int status;
    siginfo_t info;
    for (int i = 0; i < COUNT; i++) {
        if ((pids[i] = fork())) continue;
        struct timespec two = {2, 0}, left = {7, 7};
        if (i == TYPED) setpgid(0, 0);
        stands(i);
        if (i != SLEEPING) {
            while (!shared->go) ;
            _exit(40 + i);
        }
        _exit(nanosleep(&two, &left) == 0 && shared->go ? 40 + i : 1);
    }
    until_standing(COUNT);
    usleep(100000); /* no matter whether it sleeps already: it has two seconds */
    for (int i = 0; i < COUNT; i++) kill(pids[i], i == TYPED ? SIGTSTP : SIGSTOP);
    CHECK(waitpid(pids[TOLD], &status, WUNTRACED) == pids[TOLD] && WIFSTOPPED(status), "it did not stop");
    CHECK(waitpid(pids[SLEEPING], &status, WUNTRACED) == pids[SLEEPING] && WIFSTOPPED(status), "it did not stop");
    waitid(P_PID, (id_t)pids[UNTOLD], &info, WSTOPPED | WNOWAIT);
    waitid(P_PID, (id_t)pids[TYPED], &info, WSTOPPED | WNOWAIT);
    ready();
    shared->go = 1;
    CHECK(waitpid(pids[TOLD], &status, WUNTRACED | WNOHANG) == 0, "told again of a stop: %#x", status);
    CHECK(waitpid(pids[SLEEPING], &status, WUNTRACED | WNOHANG) == 0, "told again of a stop: %#x", status);
    status = 0;
    CHECK(waitpid(pids[UNTOLD], &status, WUNTRACED | WNOHANG) == pids[UNTOLD] && status == W_STOPCODE(SIGSTOP), "not told of a stop: %#x", status);
    CHECK(waitpid(pids[TYPED], &status, WUNTRACED | WNOHANG) == pids[TYPED] && status == W_STOPCODE(SIGTSTP), "not told of ^Z: %#x", status);
    for (int i = 0; i < COUNT; i++) {
        kill(pids[i], SIGCONT);
        expect_end(pids[i], W_EXITCODE(40 + i, 0));
    }
}

/* -- memory ------------------------------------------------------------------------------------------------ */

#define PAGE 4096UL
#define COMMON (256UL << 20)

static uint64_t mark(uint64_t page, uint64_t writer) { return (page + 1) * 0x9E3779B97F4A7C15ull ^ writer; }

static void write_page(char *at, uint64_t page, uint64_t writer)
{
    uint64_t *words = (uint64_t *)(at + page * PAGE);
    for (unsigned i = 0; i < PAGE / 8; i += 64) words[i] = mark(page, writer) + i;
}

static int is_page(char *at, uint64_t page, uint64_t writer)
{
    uint64_t *words = (uint64_t *)(at + page * PAGE);
    for (unsigned i = 0; i < PAGE / 8; i += 64)
        if (words[i] != mark(page, writer) + i) return 0;
    return 1;
}

static long pss_kib(void)
{
    char line[256];
    long pss = -1;
    FILE *file = fopen("/proc/self/smaps_rollup", "r");
    while (file && fgets(line, sizeof line, file)) sscanf(line, "Pss: %ld", &pss);
    if (file) fclose(file);
    return pss;
}

/* 256 MiB in common since the fork. The child has written every 101st page and dropped every 257th; the parent has
   written every 103rd since. The child's child has all of the child's. */
static void check_common(char *at, int parent, const char *name)
{
    failures = 0;
    for (uint64_t page = 0; page < COMMON / PAGE && failures < 5; page++) {
        uint64_t writer = 1;
        if (parent) writer = page % 103 == 0 ? 3 : 1;
        else if (page % 257 == 0) writer = 0;
        else if (page % 101 == 0) writer = 2;
        if (writer) CHECK(is_page(at, page, writer), "%s: page %lu", name, page);
        else CHECK(*(uint64_t *)(at + page * PAGE) == 0, "%s: page %lu is not empty", name, page);
    }
    fflush(stdout);
}

static void common(void)
{
    char *at = mmap(NULL, COMMON, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    madvise(at, COMMON, MADV_NOHUGEPAGE);
    char *wiped = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *parents_only = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    madvise(wiped, PAGE, MADV_WIPEONFORK);
    madvise(parents_only, PAGE, MADV_DONTFORK);
    strcpy(wiped, "the parent's");
    strcpy(parents_only, "not inherited");
    for (uint64_t page = 0; page < COMMON / PAGE; page++) write_page(at, page, 1);
    pid_t child = fork();
    if (!child) {
        for (uint64_t page = 0; page < COMMON / PAGE; page += 101) write_page(at, page, 2);
        for (uint64_t page = 0; page < COMMON / PAGE; page += 257) madvise(at + page * PAGE, PAGE, MADV_DONTNEED);
        mprotect(at, COMMON, PROT_READ);
        pid_t grandchild = fork();
        stands(grandchild ? 0 : 1);
        until_go();
        CHECK(*wiped == 0, "what was wiped at the fork is %s", wiped);
        check_common(at, 0, grandchild ? "child" : "grandchild");
        int status = 0;
        if (grandchild) waitpid(grandchild, &status, 0);
        fflush(stdout);
        _exit(failures || status ? 1 : 0);
    }
    until_standing(2);
    for (uint64_t page = 0; page < COMMON / PAGE; page += 103) write_page(at, page, 3);
    ready();
    long pss = pss_kib();
    CHECK(pss > 0 && pss < (long)(COMMON / 1024 / 2), "its part of the memory is %ld KiB", pss);
    CHECK(!strcmp(wiped, "the parent's") && !strcmp(parents_only, "not inherited"), "its own pages differ");
    shared->go = 1;
    expect_end(child, 0);
    int before = failures;
    check_common(at, 1, "parent");
    failures += before;
}

/* -- what clone(2) lets a parent and a child have in common -------------------------------------------------- */

static int sharing_child(void *unused)
{
    (void)unused;
    stands(0);
    until_go();
    if (chdir("/usr") || close(70) || open("/dev/zero", O_RDONLY) < 0) _exit(1);
    umask(027);
    _exit(0);
}

static void sharing(void)
{
    static char stack[65536];
    umask(022);
    if (chdir("/tmp") || dup2(0, 70) < 0) exit(2);
    pid_t child = clone(sharing_child, stack + sizeof stack, CLONE_FS | CLONE_FILES | SIGCHLD, NULL);
    until_standing(1);
    int lowest = dup(0);
    close(lowest);
    ready();
    shared->go = 1;
    expect_end(child, 0);
    char directory[64];
    CHECK(getcwd(directory, sizeof directory) && !strcmp(directory, "/usr"), "it is in %s", directory);
    CHECK(umask(0) == 027, "the umask is not common");
    CHECK(fcntl(70, F_GETFD) == -1 && errno == EBADF, "descriptor 70 is open");
    CHECK(fcntl(lowest, F_GETFD) == 0, "the child's descriptor is not here");
}

/* -- many ---------------------------------------------------------------------------------------------------- */

static void deep(void)
{
    enum { DEPTH = 120 };
    int depth = 0, status;
    pid_t child = 0;
    while (depth < DEPTH && !(child = fork())) depth++;
    if (depth == DEPTH) {
        stands(0);
        until_go();
        _exit(1);
    }
    if (depth == 0) {
        until_standing(1);
        ready();
        shared->go = 1;
    }
    if (waitpid(child, &status, 0) != child) { perror("waitpid"); _exit(255); }
    if (depth) _exit(WEXITSTATUS(status) + 1);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == DEPTH, "the chain tells %#x", status);
}

static void wide(void)
{
    enum { COUNT = 200 };
    int pipes[COUNT][2];
    pid_t pids[COUNT];
    for (int i = 0; i < COUNT; i++) {
        if (pipe2(pipes[i], O_CLOEXEC)) exit(2);
        if (!(pids[i] = fork())) {
            char byte = 0;
            for (int k = 0; k <= i; k++) close(pipes[k][1]);
            stands(i);
            _exit(read(pipes[i][0], &byte, 1) == 1 ? byte : 255);
        }
        close(pipes[i][0]);
    }
    until_standing(COUNT);
    ready();
    for (int i = 0; i < COUNT; i++) {
        char byte = (char)(i % 100);
        CHECK(write(pipes[i][1], &byte, 1) == 1, "pipe %d: %s", i, strerror(errno));
        expect_end(pids[i], W_EXITCODE(i % 100, 0));
    }
}

/* Forks as fast as it can, in four processes at once, until it is told to stop. Nobody is lost. */
static void forking(void)
{
    enum { COUNT = 4 };
    pid_t pids[COUNT];
    for (int i = 0; i < COUNT; i++) {
        if (!(pids[i] = fork())) {
            int count = 0, status;
            stands(i);
            while (!shared->go) {
                pid_t child = fork();
                if (!child) _exit(count % 50);
                if (waitpid(child, &status, 0) != child || status != W_EXITCODE(count % 50, 0)) _exit(1);
                count++;
            }
            _exit(wait(NULL) == -1 && errno == ECHILD ? 0 : 2);
        }
    }
    until_standing(COUNT);
    ready();
    shared->go = 1;
    for (int i = 0; i < COUNT; i++) expect_end(pids[i], 0);
}

static const struct { const char *name; void (*run)(void); } kinds[] = {
    {"family", family}, {"sessions", sessions}, {"zombies", zombies}, {"stopped", stopped}, {"common", common}, {"sharing", sharing},
    {"deep", deep}, {"wide", wide}, {"forking", forking},
};

int main(int argc, char **argv)
{
    sigset_t usr1;
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    sigprocmask(SIG_BLOCK, &usr1, NULL);
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    for (unsigned i = 0; argc > 1 && i < sizeof kinds / sizeof *kinds; i++) {
        if (!strcmp(argv[1], kinds[i].name)) {
            kinds[i].run();
            puts(failures ? "failed" : "ok");
            return failures != 0;
        }
    }
    fprintf(stderr, "usage: tree KIND\n");
    return 2;
}
