/* Has every sort of mapping, and looks at all of them, and uses them further, when it gets SIGUSR1.
   usage: mem_kinds DIRECTORY [pageout]; prints "NAME START-END" for some of them and "ready", then "ok" or what is
   different. DIRECTORY gets the files "private" and "shared". `pageout`: have the kernel swap one of them out. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 0x08
#endif
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif

#define PAGE 4096ul
#define FILE_PAGES 256ul
#define TERA (1ul << 40)

static int failures;
#define CHECK(what, ...) do { if (!(what)) { failures++; printf("different: " __VA_ARGS__); putchar('\n'); } } while (0)

static volatile sig_atomic_t go;
static void on_usr1(int signal) { (void)signal; go = 1; }

static sigjmp_buf after_fault;
static void on_fault(int signal) { (void)signal; siglongjmp(after_fault, 1); }

static int faults(const volatile char *at)
{
    if (sigsetjmp(after_fault, 1))
        return 1;
    (void)*at;
    return 0;
}

static uint64_t word(uint64_t i) { return (i + 1) * 0x9E3779B97F4A7C15ull; }

static void fill(void *at, size_t bytes, uint64_t seed)
{
    for (size_t i = 0; i < bytes / 8; i++)
        ((uint64_t *)at)[i] = word(i + seed);
}

static int filled(const void *at, size_t bytes, uint64_t seed)
{
    for (size_t i = 0; i < bytes / 8; i++)
        if (((const uint64_t *)at)[i] != word(i + seed))
            return 0;
    return 1;
}

static char *anonymous(size_t bytes, int flags)
{
    char *made = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | flags, -1, 0);
    if (made == MAP_FAILED) {
        perror("mmap");
        exit(2);
    }
    return made;
}

static int file(const char *name, const char *content)
{
    int fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || write(fd, content, FILE_PAGES * PAGE) != (ssize_t)(FILE_PAGES * PAGE))
        exit(2);
    return fd;
}

static void tell(const char *name, const char *at, size_t bytes)
{
    printf("%s %lx-%lx\n", name, (unsigned long)at, (unsigned long)at + bytes);
}

/* Deeper than the stack has ever been. */
static int recurse(int depth)
{
    volatile char frame[16384];
    memset((void *)frame, depth, sizeof(frame));
    return depth ? recurse(depth - 1) + frame[5] - (char)depth : 0;
}

/* Where madvise can be seen in VmFlags; those that this kernel was built without are as they were afterwards too. */
static const int ADVICE[] = {MADV_DONTFORK, MADV_DONTDUMP, MADV_WIPEONFORK, MADV_MERGEABLE, MADV_HUGEPAGE, MADV_NOHUGEPAGE,
                             MADV_SEQUENTIAL, MADV_RANDOM};

int main(int argc, char **argv)
{
    if (argc < 2 || chdir(argv[1])) return 2;
    setvbuf(stdout, NULL, _IOLBF, 0);
    char *content = malloc(FILE_PAGES * PAGE);
    fill(content, FILE_PAGES * PAGE, 1);

    int private_fd = file("private", content), shared_fd = file("shared", content);
    char *private = mmap(NULL, FILE_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, private_fd, 0);
    private[3 * PAGE] ^= 1;
    private[7 * PAGE + 100] ^= 1;
    tell("private", private, FILE_PAGES * PAGE);
    char *shared = mmap(NULL, FILE_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, shared_fd, 0);
    fill(shared + 5 * PAGE, PAGE, 2);
    char *read_only = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, shared_fd, (off_t)(5 * PAGE));
    close(private_fd);

    char *both = anonymous(8 * PAGE, MAP_SHARED);
    char *part = mremap(both + 2 * PAGE, 0, 3 * PAGE, MREMAP_MAYMOVE); /* length 0: a second view of the same memory */
    fill(both + PAGE, 3 * PAGE, 3);

    char *none = anonymous(4 * PAGE, MAP_PRIVATE);
    fill(none, 4 * PAGE, 4);
    mprotect(none, 4 * PAGE, PROT_NONE);

    char *guarded = anonymous(5 * PAGE, MAP_PRIVATE);
    fill(guarded, 5 * PAGE, 5);
    int has_guards = madvise(guarded + 2 * PAGE, PAGE, MADV_GUARD_INSTALL) == 0;
    printf("guards: %d\n", has_guards);

    char *locked = anonymous(4 * PAGE, MAP_PRIVATE), *locked_on_fault = anonymous(4 * PAGE, MAP_PRIVATE);
    fill(locked, PAGE, 6);
    mlock(locked, 4 * PAGE);
    mlock2(locked_on_fault, 4 * PAGE, MLOCK_ONFAULT);

    enum { ADVISED = sizeof(ADVICE) / sizeof(ADVICE[0]) };
    char *advised[ADVISED];
    for (int i = 0; i < ADVISED; i++) {
        advised[i] = anonymous(4ul << 20, MAP_PRIVATE);
        madvise(advised[i], 4ul << 20, ADVICE[i]);
        fill(advised[i] + (1ul << 20), PAGE, 7);
    }

    char *unreserved = anonymous(16 * PAGE, MAP_PRIVATE | MAP_NORESERVE);
    /* With room below it: a stack may not come nearer than a megabyte to what lies there. */
    char *hole = anonymous(4ul << 20, MAP_PRIVATE);
    munmap(hole, 4ul << 20);
    char *stack = mmap(hole + (2ul << 20), 2 * PAGE, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED, -1, 0);
    fill(stack, 2 * PAGE, 8);
    char *droppable = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_DROPPABLE | MAP_ANONYMOUS, -1, 0);
    if (droppable != MAP_FAILED) fill(droppable, 4 * PAGE, 9);

    char *sparse = anonymous(4 * TERA, MAP_PRIVATE | MAP_NORESERVE);
    for (int i = 0; i < 3; i++) fill(sparse + i * (4 * TERA - PAGE) / 2 / PAGE * PAGE, PAGE, 10 + (uint64_t)i);
    tell("sparse", sparse, 4 * TERA);

    char *zeros = anonymous(512 * PAGE, MAP_PRIVATE);
    madvise(zeros, 512 * PAGE, MADV_NOHUGEPAGE);
    for (size_t i = 0; i < 512; i++) CHECK(!((volatile char *)zeros)[i * PAGE], "fresh memory");
    zeros[100 * PAGE] = 1;
    tell("zeros", zeros, 512 * PAGE);

    char *neighbours = anonymous(6 * PAGE, MAP_PRIVATE);
    fill(neighbours, 6 * PAGE, 13);
    mprotect(neighbours + PAGE, PAGE, PROT_READ);
    mprotect(neighbours + 2 * PAGE, PAGE, PROT_NONE);
    mprotect(neighbours + 3 * PAGE, PAGE, PROT_READ | PROT_EXEC);
    prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, neighbours + 4 * PAGE, PAGE, "fourth page");
    prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, neighbours + 5 * PAGE, PAGE, "fifth page");

    char *out = anonymous(256 * PAGE, MAP_PRIVATE);
    madvise(out, 256 * PAGE, MADV_NOHUGEPAGE);
    fill(out, 256 * PAGE, 14);
    for (int i = 0; argc > 2 && i < 20; i++, usleep(5000)) /* pages that somebody looks at just then are left out */
        madvise(out, 256 * PAGE, MADV_PAGEOUT);
    tell("out", out, 256 * PAGE);

    char *brk_before = sbrk(0);
    sigaction(SIGUSR1, &(struct sigaction){.sa_handler = on_usr1}, NULL);
    sigaction(SIGSEGV, &(struct sigaction){.sa_handler = on_fault}, NULL);
    sigset_t usr1, before;
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    sigprocmask(SIG_BLOCK, &usr1, &before);
    puts("ready");
    while (!go) sigsuspend(&before);

    private[3 * PAGE] ^= 1;
    private[7 * PAGE + 100] ^= 1;
    CHECK(!memcmp(private, content, FILE_PAGES * PAGE), "the private mapping of a file");
    CHECK(filled(shared + 5 * PAGE, PAGE, 2) && filled(read_only, PAGE, 2), "the shared mapping of a file");
    memset(shared + 9 * PAGE, 0x55, PAGE);
    char in_file[2 * PAGE];
    CHECK(pread(shared_fd, in_file, PAGE, (off_t)(5 * PAGE)) == (ssize_t)PAGE && filled(in_file, PAGE, 2), "the mapped file");
    CHECK(pread(shared_fd, in_file, PAGE, (off_t)(9 * PAGE)) == (ssize_t)PAGE && in_file[77] == 0x55, "what was written later");

    CHECK(filled(both + PAGE, 3 * PAGE, 3) && !memcmp(both + 2 * PAGE, part, 3 * PAGE), "shared memory");
    both[3 * PAGE + 5] = 99;
    part[2 * PAGE + 6] = 98;
    CHECK(part[PAGE + 5] == 99 && both[4 * PAGE + 6] == 98, "shared memory is no longer one");
    CHECK(faults(none), "PROT_NONE can be read");
    mprotect(none, 4 * PAGE, PROT_READ);
    CHECK(filled(none, 4 * PAGE, 4), "what PROT_NONE hides");
    if (has_guards) {
        CHECK(faults(guarded + 2 * PAGE) && faults(guarded + 3 * PAGE - 1), "the guard page is gone");
        CHECK(filled(guarded, 2 * PAGE, 5) && filled(guarded + 3 * PAGE, 2 * PAGE, 5 + 3 * PAGE / 8), "beside the guard page");
    }
    CHECK(filled(locked, PAGE, 6) && !locked[PAGE], "locked memory");
    for (int i = 0; i < ADVISED; i++)
        CHECK(filled(advised[i] + (1ul << 20), PAGE, 7) && !advised[i][0], "memory with advice %d", ADVICE[i]);
    CHECK(!unreserved[5 * PAGE], "unreserved memory");
    CHECK(filled(stack, 2 * PAGE, 8), "a stack");
    stack[-100] = 1;
    stack[-(long)PAGE - 100] = 1; /* it grows, or this is a fault */
    CHECK(recurse(100) == 0, "the main stack");
    for (int i = 0; i < 3; i++)
        CHECK(filled(sparse + i * (4 * TERA - PAGE) / 2 / PAGE * PAGE, PAGE, 10 + (uint64_t)i), "page %d of 4 TiB", i);
    CHECK(!sparse[TERA + 12345], "a hole in 4 TiB");
    for (size_t i = 0; i < 512; i++) CHECK(zeros[i * PAGE] == (i == 100), "page %zu of zeros", i);
    CHECK(filled(neighbours, 2 * PAGE, 13) && faults(neighbours + 2 * PAGE), "neighbours");
    CHECK(filled(neighbours + 3 * PAGE, 3 * PAGE, 13 + 3 * PAGE / 8), "further neighbours");
    CHECK(filled(out, 256 * PAGE, 14), "what was swapped out");
    CHECK(sbrk(0) == brk_before, "the program break");
    char *grown = sbrk(64 * PAGE);
    CHECK(grown == brk_before, "the heap has not grown in place");
    if (grown == brk_before) fill(grown, 64 * PAGE, 15);
    if (!failures) puts("ok");
    return failures != 0;
}
