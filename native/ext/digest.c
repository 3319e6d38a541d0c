/* Digests of the files of an image. A file is mapped, not read: its bytes are looked at where the page cache has them. */
#include "declarations.inc"
#include "digest.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#define WORKERS_MAX 16

struct job {
    int fd;
    uint64_t size, chunk_bytes, *digests;
    size_t digest_count;
    int is_sparse;
    uint64_t zeros; /* the digest of a whole chunk of them */
    atomic_size_t next;
    atomic_long error;
};

/* A mapped file that somebody cuts short meanwhile raises SIGBUS where it is read. */
static _Thread_local sigjmp_buf *cut_short;

static void on_sigbus(int signal)
{
    if (cut_short)
        siglongjmp(*cut_short, 1);
    struct sigaction none = {.sa_handler = SIG_DFL};
    sigaction(signal, &none, NULL);
    raise(signal);
}

static __attribute__((noinline)) long digest_unless_cut_short(const void *content, size_t length, uint64_t *digest)
{
    sigjmp_buf buffer;
    if (sigsetjmp(buffer, 1) != 0) {
        cut_short = NULL;
        return -ENODATA;
    }
    cut_short = &buffer;
    *digest = XXH3_64bits(content, length);
    cut_short = NULL;
    return 0;
}

/* A hole of a sparse file is known to hold zeros, without looking at terabytes of them. */
static int is_hole(const struct job *job, uint64_t at, uint64_t length)
{
    off_t data = lseek(job->fd, (off_t)at, SEEK_DATA);
    return data < 0 ? errno == ENXIO : (uint64_t)data >= at + length;
}

static long digest_zeros(uint64_t length, uint64_t *digest)
{
    void *zeros = mmap(NULL, length, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (zeros == MAP_FAILED)
        return -errno;
    *digest = XXH3_64bits(zeros, length);
    munmap(zeros, length);
    return 0;
}

static long do_chunk(struct job *job, size_t index)
{
    uint64_t at = index * job->chunk_bytes, length = job->size - at;
    if (length > job->chunk_bytes)
        length = job->chunk_bytes;
    if (job->is_sparse && length == job->chunk_bytes && is_hole(job, at, length)) {
        job->digests[index] = job->zeros;
        return 0;
    }
    void *content = mmap(NULL, length, PROT_READ, MAP_SHARED | MAP_POPULATE, job->fd, (off_t)at);
    if (content == MAP_FAILED)
        return -errno;
    long result = digest_unless_cut_short(content, length, &job->digests[index]);
    munmap(content, length);
    return result;
}

static void *work(void *argument)
{
    struct job *job = argument;
    size_t index;
    while ((index = atomic_fetch_add(&job->next, 1)) < job->digest_count && !atomic_load(&job->error)) {
        long result = do_chunk(job, index), none = 0;
        if (result < 0)
            atomic_compare_exchange_strong(&job->error, &none, result);
    }
    return NULL;
}

long lcr_digest(int fd, uint64_t size, uint64_t chunk_bytes, uint64_t *digests, size_t digest_count, int workers)
{
    struct job job = {.fd = fd, .size = size, .chunk_bytes = chunk_bytes, .digests = digests, .digest_count = digest_count};
    struct sigaction catching = {.sa_handler = on_sigbus}, before;
    pthread_t threads[WORKERS_MAX];
    int started = 0;
    struct stat about;
    if (fstat(fd, &about) < 0 || sigaction(SIGBUS, &catching, &before) < 0)
        return -errno;
    job.is_sparse = (uint64_t)about.st_blocks * 512 < (uint64_t)about.st_size;
    if (job.is_sparse)
        job.error = digest_zeros(chunk_bytes, &job.zeros);
    if ((uint64_t)about.st_size < size) /* within its last page a mapping shows zeros */
        job.error = -ENODATA;
    if ((size_t)workers > digest_count)
        workers = (int)digest_count;
    while (started + 1 < workers && started < WORKERS_MAX && !pthread_create(&threads[started], NULL, work, &job))
        started++;
    work(&job);
    while (started)
        pthread_join(threads[--started], NULL);
    sigaction(SIGBUS, &before, NULL);
    return atomic_load(&job.error);
}

uint64_t lcr_xxh3(const void *data, size_t size)
{
    return XXH3_64bits(data, size);
}
