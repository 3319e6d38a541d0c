/* Pages of another process: which of them are its own (PAGEMAP_SCAN), and their way into a core file
   (process_vm_readv, pwrite) with a digest taken while they are in the cache. Called by livecr.kinds and
   livecr.image; every function runs without Python's lock. */
#include "declarations.inc"
#include "pages.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#define PAGE 4096UL

/* -- which pages ---------------------------------------------------------------------------------------- */

/* include/uapi/linux/fs.h since 6.7; older headers have none of it. */
struct scan_region {
    uint64_t start, end, categories;
};
struct scan_arg {
    uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
    uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
#define SCAN _IOWR('f', 16, struct scan_arg)
#define IS_FILE (1 << 2)
#define IS_PRESENT (1 << 3)
#define IS_SWAPPED (1 << 4)
#define IS_PFNZERO (1 << 5)
#define IS_GUARD (1 << 8) /* 6.15; EINVAL before */

/* The bits of an entry of /proc/PID/pagemap: Documentation/admin-guide/mm/pagemap.rst. */
#define ENTRY_GUARD (1ULL << 58)
#define ENTRY_FILE_OR_SHARED (1ULL << 61)
#define ENTRY_SWAPPED (1ULL << 62)
#define ENTRY_PRESENT (1ULL << 63)

#define REGIONS 512

/* Pages in all categories of `all` but none of `none`, and in at least one of `any` (if it is not 0). */
static long scan(int fd, uint64_t start, uint64_t end, uint64_t all, uint64_t none, uint64_t any,
                 struct lcr_run *runs, size_t room, uint64_t *walk_end)
{
    struct scan_region regions[REGIONS];
    size_t found = 0;
    while (start < end && found < room) {
        size_t wanted = room - found < REGIONS ? room - found : REGIONS;
        struct scan_arg arg = {
            .size = sizeof(arg), .start = start, .end = end, .vec = (uintptr_t)regions, .vec_len = wanted,
            .category_inverted = none, .category_mask = all | none, .category_anyof_mask = any,
        };
        int count = ioctl(fd, SCAN, &arg);
        if (count < 0) {
            if (errno == EINTR)
                continue;
            return -errno;
        }
        for (int i = 0; i < count; i++) {
            /* A call that ended between two pages of one region continues that region. */
            if (found && runs[found - 1].end == regions[i].start)
                runs[found - 1].end = regions[i].end;
            else
                runs[found++] = (struct lcr_run){regions[i].start, regions[i].end, 0};
        }
        start = arg.walk_end;
    }
    *walk_end = start;
    return (long)found;
}

long lcr_scan_private_entries(int fd, uint64_t start, uint64_t end, struct lcr_run *runs, size_t room,
                              uint64_t *walk_end)
{
    uint64_t entries[1024];
    size_t found = 0;
    while (start < end) {
        size_t pages = (end - start) / PAGE < 1024 ? (end - start) / PAGE : 1024;
        ssize_t got = pread(fd, entries, pages * 8, (off_t)(start / PAGE * 8));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 8)
            return got < 0 ? -errno : -EIO;
        for (ssize_t i = 0; i < got / 8; i++, start += PAGE) {
            uint64_t entry = entries[i];
            if (!(entry & (ENTRY_PRESENT | ENTRY_SWAPPED)) || entry & (ENTRY_FILE_OR_SHARED | ENTRY_GUARD))
                continue;
            if (found && runs[found - 1].end == start) {
                runs[found - 1].end += PAGE;
                continue;
            }
            if (found == room) {
                *walk_end = start;
                return (long)found;
            }
            runs[found++] = (struct lcr_run){start, start + PAGE, 0};
        }
    }
    *walk_end = end;
    return (long)found;
}

static int scan_works(uint64_t categories)
{
    static char page;
    struct lcr_run run;
    uint64_t walk_end, start = (uintptr_t)&page / PAGE * PAGE;
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    long result = scan(fd, start, start + PAGE, 0, categories, 0, &run, 1, &walk_end);
    close(fd);
    return result >= 0;
}

int lcr_has_pagemap_scan(void)
{
    static int known = -1;
    if (known < 0)
        known = scan_works(IS_FILE | IS_PFNZERO);
    return known;
}

int lcr_has_guard_scan(void)
{
    static int known = -1;
    if (known < 0)
        known = scan_works(IS_GUARD);
    return known;
}

static long scan_own(int fd, uint64_t start, uint64_t end, uint64_t none, struct lcr_run *runs, size_t room,
                     uint64_t *walk_end)
{
    if (!lcr_has_pagemap_scan())
        return lcr_scan_private_entries(fd, start, end, runs, room, walk_end);
    /* A guard page is a marker in the page table, which counts as swapped. */
    if (lcr_has_guard_scan())
        none |= IS_GUARD;
    return scan(fd, start, end, 0, none, IS_PRESENT | IS_SWAPPED, runs, room, walk_end);
}

long lcr_scan_private(int pagemap_fd, uint64_t start, uint64_t end, struct lcr_run *runs, size_t room,
                      uint64_t *walk_end)
{
    return scan_own(pagemap_fd, start, end, IS_FILE | IS_PFNZERO, runs, room, walk_end);
}

long lcr_scan_anonymous(int pagemap_fd, uint64_t start, uint64_t end, struct lcr_run *runs, size_t room,
                        uint64_t *walk_end)
{
    /* Asking for "file" would make the kernel look at the struct page of each page. */
    return scan_own(pagemap_fd, start, end, IS_PFNZERO, runs, room, walk_end);
}

long lcr_scan_guards(int pagemap_fd, uint64_t start, uint64_t end, struct lcr_run *runs, size_t room,
                     uint64_t *walk_end)
{
    return scan(pagemap_fd, start, end, IS_GUARD, 0, 0, runs, room, walk_end);
}

/* -- copying -------------------------------------------------------------------------------------------- */

#define BUFFER (512 * 1024UL) /* stays in the cache from the read to the write */
#define PIECES 64 /* parts of one process_vm_readv */
#define STACK (256 * 1024UL)

struct job {
    int pid, fd, mem_fd; /* mem_fd: /proc/PID/mem, or -1 when only digests are wanted */
    const char *head;
    size_t head_len;
    const struct lcr_run *runs;
    size_t run_count;
    uint64_t size, chunk_bytes;
    uint64_t *digests;
    size_t digest_count;
    int gently;           /* process_vm_readv pins pages, and the kernel gives each process its own copy for that */
    atomic_size_t next;   /* the next chunk that nobody has taken */
    atomic_long error;    /* the first error, negative */
    atomic_ulong where;
};

static void give_up(struct job *job, long error, uint64_t where)
{
    long none = 0;
    if (atomic_compare_exchange_strong(&job->error, &none, error))
        atomic_store(&job->where, where);
}

/* The pages of [address, address + size), whatever their protection: /proc/PID/mem overrides PROT_NONE. */
static long read_forced(struct job *job, char *into, size_t size, uint64_t address)
{
    size_t done = 0;
    while (done < size) {
        ssize_t got = pread(job->mem_fd, into + done, size - done, (off_t)(address + done));
        if (got > 0) {
            done += (size_t)got;
        } else if (got == 0 || errno != EINTR) {
            long error = got == 0 ? -EIO : -errno;
            give_up(job, error, address + done);
            return error;
        }
    }
    return 0;
}

/* The index of the run that the file offset `position` lies in; there is one. */
static size_t run_at(const struct job *job, uint64_t position)
{
    size_t low = 0, high = job->run_count;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (job->runs[middle].offset <= position)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* The memory that belongs at `position` of the file. */
static long read_target(struct job *job, char *into, size_t size, uint64_t position)
{
    size_t index = run_at(job, position);
    size_t done = 0;
    while (done < size) {
        struct iovec pieces[PIECES];
        size_t count = 0, planned = 0;
        for (size_t i = index; count < (job->gently ? 1 : PIECES) && done + planned < size && i < job->run_count; i++, count++) {
            const struct lcr_run *run = &job->runs[i];
            uint64_t skip = position + done + planned - run->offset;
            size_t length = run->end - run->start - skip;
            if (length > size - done - planned)
                length = size - done - planned;
            pieces[count] = (struct iovec){(void *)(run->start + skip), length};
            planned += length;
        }
        struct iovec here = {into + done, planned};
        ssize_t got = job->gently ? 0 : process_vm_readv(job->pid, &here, 1, pieces, count, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && errno != EFAULT) {
            long error = -errno;
            give_up(job, error, (uint64_t)pieces[0].iov_base);
            return error;
        }
        size_t read = got < 0 ? 0 : (size_t)got, at = 0;
        done += read;
        while (at < count && read >= pieces[at].iov_len)
            read -= pieces[at++].iov_len;
        index += at;
        if (at == count)
            continue;
        /* It stopped at a page that may not be read: the rest of this piece by the other way. */
        size_t rest = pieces[at].iov_len - read;
        long error = read_forced(job, into + done, rest, (uint64_t)pieces[at].iov_base + read);
        if (error)
            return error;
        done += rest;
        if ((uint64_t)pieces[at].iov_base + pieces[at].iov_len == job->runs[index].end)
            index++;
    }
    return 0;
}

static long read_file(struct job *job, char *into, size_t size, uint64_t position)
{
    size_t done = 0;
    while (done < size) {
        ssize_t got = pread(job->fd, into + done, size - done, (off_t)(position + done));
        if (got > 0) {
            done += (size_t)got;
        } else if (got == 0 || errno != EINTR) {
            long error = got == 0 ? -ENODATA : -errno;
            give_up(job, error, 0);
            return error;
        }
    }
    return 0;
}

static long write_file(struct job *job, const char *from, size_t size, uint64_t position)
{
    size_t done = 0;
    while (done < size) {
        ssize_t put = pwrite(job->fd, from + done, size - done, (off_t)(position + done));
        if (put >= 0) {
            done += (size_t)put;
        } else if (errno != EINTR) {
            long error = -errno;
            give_up(job, error, 0);
            return error;
        }
    }
    return 0;
}

static long copy_piece(struct job *job, char *buffer, size_t size, uint64_t position)
{
    size_t head = 0;
    if (position < job->head_len) {
        head = job->head_len - position < size ? job->head_len - position : size;
        __builtin_memcpy(buffer, job->head + position, head);
    }
    if (head < size) {
        long error = read_target(job, buffer + head, size - head, position + head);
        if (error)
            return error;
    }
    return write_file(job, buffer, size, position);
}

static void work_chunk(struct job *job, char *buffer, size_t chunk)
{
    uint64_t position = chunk * job->chunk_bytes, end = position + job->chunk_bytes;
    if (end > job->size)
        end = job->size;
    XXH3_state_t state;
    XXH3_64bits_reset(&state);
    while (position < end && !atomic_load(&job->error)) {
        size_t size = end - position < BUFFER ? end - position : BUFFER;
        long error = job->mem_fd < 0 ? read_file(job, buffer, size, position)
                                     : copy_piece(job, buffer, size, position);
        if (error)
            return;
        XXH3_64bits_update(&state, buffer, size);
        position += size;
    }
    job->digests[chunk] = XXH3_64bits_digest(&state);
}

static void *work(void *argument)
{
    struct job *job = argument;
    size_t room = job->size < BUFFER ? job->size : BUFFER;
    char *buffer = mmap(NULL, room ? room : 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (buffer == MAP_FAILED) {
        give_up(job, -errno, 0);
        return NULL;
    }
    size_t chunk;
    while ((chunk = atomic_fetch_add(&job->next, 1)) < job->digest_count && !atomic_load(&job->error))
        work_chunk(job, buffer, chunk);
    munmap(buffer, room ? room : 1);
    return NULL;
}

/* The caller's thread is one of the workers; a thread that cannot be made is merely missing. */
static long run_job(struct job *job, int workers)
{
    if (job->chunk_bytes == 0 || (job->size + job->chunk_bytes - 1) / job->chunk_bytes != job->digest_count)
        return -EINVAL;
    pthread_t threads[16];
    int started = 0;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK);
    while (started < 16 && started < workers - 1 && (size_t)started + 1 < job->digest_count &&
           pthread_create(&threads[started], &attributes, work, job) == 0)
        started++;
    work(job);
    while (started > 0)
        pthread_join(threads[--started], NULL);
    pthread_attr_destroy(&attributes);
    return atomic_load(&job->error);
}

long lcr_dump(int pid, int core_fd, const void *head, size_t head_len, const struct lcr_run *runs,
              size_t run_count, uint64_t size, uint64_t chunk_bytes, uint64_t *digests, size_t digest_count,
              int workers, int gently, uint64_t *where)
{
    *where = 0;
    uint64_t offset = head_len;
    for (size_t i = 0; i < run_count; i++) {
        if (runs[i].offset != offset || runs[i].end <= runs[i].start)
            return -EINVAL;
        offset += runs[i].end - runs[i].start;
    }
    if (offset != size)
        return -EINVAL;
    char path[32];
    snprintf(path, sizeof(path), "/proc/%d/mem", pid);
    int mem_fd = open(path, O_RDONLY | O_CLOEXEC);
    if (mem_fd < 0)
        return -errno;
    struct job job = {.pid = pid, .fd = core_fd, .mem_fd = mem_fd, .head = head, .head_len = head_len,
                      .runs = runs, .run_count = run_count, .size = size, .chunk_bytes = chunk_bytes,
                      .digests = digests, .digest_count = digest_count, .gently = gently};
    long result = run_job(&job, workers);
    *where = atomic_load(&job.where);
    close(mem_fd);
    return result;
}
