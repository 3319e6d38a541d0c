/* Where the bytes of a core file go in memory: the table for preadv. */
#include "declarations.inc"
#include "pages.h"
#include "load.h"

/* The last run that starts at or before `offset` in the file; runs ascend there too. */
static size_t run_at(const struct lcr_run *runs, size_t count, uint64_t offset)
{
    size_t low = 0, high = count;
    while (high - low > 1) {
        size_t middle = (low + high) / 2;
        if (runs[middle].offset <= offset)
            low = middle;
        else
            high = middle;
    }
    return low;
}

long lcr_iovecs(const struct lcr_run *runs, size_t count, uint64_t from, uint64_t to, uint64_t *iovecs,
                size_t room, uint64_t *after)
{
    size_t made = 0;
    for (size_t i = run_at(runs, count, from); i < count && from < to && made < room; i++) {
        uint64_t address = runs[i].start + (from - runs[i].offset);
        uint64_t length = runs[i].end - address;
        if (length > to - from)
            length = to - from;
        iovecs[2 * made] = address;
        iovecs[2 * made + 1] = length;
        made++;
        from += length;
    }
    *after = from;
    return (long)made;
}
