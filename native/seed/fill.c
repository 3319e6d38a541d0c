/* The filler of a half-built process: reads the pages of the core file straight into their places, by preadv(2), and
   makes the digest of each piece while it is still in the CPU's cache. Several tasks run it at the same time, each
   taking the next chunk. It ends by int3 (see batch.S); vector registers may be used, for the program's own are set
   last of all. Freestanding, position-independent, and without writable data: it is copied into the process. */
#include <stddef.h>
#include <stdint.h>

#include "../ext/declarations.inc"
#include "../ext/pages.h"
#include "../ext/fill.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#define NR_PREADV 295
#define ENODATA 61
#define PIECE (512UL << 10)
#define PIECE_PARTS 64

struct part {
    uint64_t address, length; /* struct iovec */
};

/* The compiler may call these where it is told that there is no library. */
void *memcpy(void *to, const void *from, size_t size)
{
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
    return to;
}

void *memset(void *to, int value, size_t size)
{
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(size) : "a"(value) : "memory");
    return to;
}

static long preadv_at(uint64_t fd, const struct part *parts, size_t count, uint64_t offset)
{
    register uint64_t low __asm__("r10") = offset, high __asm__("r8") = 0;
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "0"(NR_PREADV), "D"(fd), "S"(parts), "d"(count), "r"(low), "r"(high)
                     : "rcx", "r11", "memory");
    return result;
}

/* The first place that ends behind `offset` in the file. */
static size_t first_place(const struct lcr_fill *fill, uint64_t offset)
{
    const struct lcr_run *places = (const struct lcr_run *)fill->places;
    size_t low = 0, high = fill->place_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (places[middle].offset + (places[middle].end - places[middle].start) <= offset)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Where the bytes of the file from `at` on go, `limit` at the most; how many bytes that are. */
static uint64_t plan(const struct lcr_fill *fill, uint64_t at, uint64_t limit, struct part *parts, size_t *count)
{
    const struct lcr_run *places = (const struct lcr_run *)fill->places;
    uint64_t planned = 0;
    *count = 0;
    if (at < fill->head_bytes) {
        planned = fill->head_bytes - at < limit ? fill->head_bytes - at : limit;
        parts[(*count)++] = (struct part){fill->head + at, planned};
        return planned;
    }
    for (size_t i = first_place(fill, at); i < fill->place_count && planned < limit && *count < PIECE_PARTS; i++) {
        uint64_t into = at + planned - places[i].offset;
        uint64_t length = places[i].end - places[i].start - into;
        if (length > limit - planned)
            length = limit - planned;
        parts[(*count)++] = (struct part){places[i].start + into, length};
        planned += length;
    }
    return planned;
}

static long fill_chunk(struct lcr_fill *fill, uint64_t index)
{
    struct part parts[PIECE_PARTS];
    XXH3_state_t state;
    uint64_t at = index * fill->chunk_bytes, end = at + fill->chunk_bytes;
    if (end > fill->size)
        end = fill->size;
    XXH3_64bits_reset(&state);
    while (at < end) {
        size_t count;
        uint64_t wanted = plan(fill, at, end - at < PIECE ? end - at : PIECE, parts, &count);
        long got = wanted ? preadv_at(fill->fd, parts, count, at) : -ENODATA;
        if (got != (long)wanted)
            return got < 0 ? got : -ENODATA;
        for (size_t i = 0; i < count; i++)
            XXH3_64bits_update(&state, (const void *)parts[i].address, parts[i].length);
        at += wanted;
    }
    ((uint64_t *)fill->digests)[index] = XXH3_64bits_digest(&state);
    return 0;
}

__attribute__((section(".text.entry"), noreturn)) void fill(struct lcr_fill *fill)
{
    for (;;) {
        uint64_t index = __atomic_fetch_add(&fill->next, 1, __ATOMIC_RELAXED);
        if (index >= fill->chunk_count || __atomic_load_n(&fill->error, __ATOMIC_RELAXED))
            break;
        long result = fill_chunk(fill, index);
        if (result < 0)
            __atomic_store_n(&fill->error, result, __ATOMIC_RELAXED);
    }
    for (;;)
        __asm__ volatile("int3");
}
