/* Pages that two processes still share since a fork, found by their frames in /proc/PID/pagemap
   (Documentation/admin-guide/mm/pagemap.rst). Called by livecr/kinds/pages.py. */
#include "declarations.inc"
#include "pages.h"
#include "pages_common.h"

#include <errno.h>
#include <unistd.h>

#define PAGE 4096UL
#define ENTRIES 2048

#define ENTRY_PLACE ((1ULL << 55) - 1) /* the frame, or type and offset in swap */
#define ENTRY_GUARD (1ULL << 58)
#define ENTRY_FILE_OR_SHARED (1ULL << 61)
#define ENTRY_SWAPPED (1ULL << 62)
#define ENTRY_PRESENT (1ULL << 63)
#define ENTRY_WHERE (ENTRY_PLACE | ENTRY_SWAPPED | ENTRY_PRESENT)

static ssize_t read_entries(int fd, uint64_t *entries, size_t pages, uint64_t start)
{
    for (;;) {
        ssize_t got = pread(fd, entries, pages * 8, (off_t)(start / PAGE * 8));
        if (got >= 8)
            return got / 8;
        if (got >= 0)
            return -EIO;
        if (errno != EINTR)
            return -errno;
    }
}

static int is_common(uint64_t one, uint64_t other)
{
    if (!(one & (ENTRY_PRESENT | ENTRY_SWAPPED)) || one & (ENTRY_FILE_OR_SHARED | ENTRY_GUARD))
        return 0;
    return one & ENTRY_PLACE && (one & ENTRY_WHERE) == (other & ENTRY_WHERE) && !(other & ENTRY_GUARD);
}

long lcr_common_pages(int one_fd, int other_fd, uint64_t start, uint64_t end, struct lcr_run *runs, size_t room,
                      uint64_t *walk_end)
{
    uint64_t one[ENTRIES], other[ENTRIES];
    size_t found = 0;
    while (start < end) {
        size_t pages = (end - start) / PAGE < ENTRIES ? (end - start) / PAGE : ENTRIES;
        ssize_t got = read_entries(one_fd, one, pages, start);
        ssize_t theirs = got < 0 ? got : read_entries(other_fd, other, (size_t)got, start);
        if (theirs < 0)
            return theirs;
        for (size_t i = 0; i < (size_t)theirs; i++, start += PAGE) {
            if (!is_common(one[i], other[i]))
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

size_t lcr_without(const struct lcr_run *runs, size_t count, const struct lcr_run *without, size_t without_count,
                   struct lcr_run *left)
{
    size_t found = 0, w = 0;
    for (size_t i = 0; i < count; i++) {
        uint64_t at = runs[i].start, end = runs[i].end;
        while (w < without_count && without[w].end <= at)
            w++;
        for (size_t k = w; at < end; k++) {
            uint64_t hole = k < without_count && without[k].start < end ? without[k].start : end;
            if (hole > at)
                left[found++] = (struct lcr_run){at, hole, 0};
            if (hole == end)
                break;
            at = without[k].end;
        }
    }
    return found;
}
