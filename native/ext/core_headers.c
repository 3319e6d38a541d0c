/* The PT_LOAD table of an ELF core, from mappings and runs of stored pages; in C because a program with a
   scattered heap has a hundred thousand of them. Called by livecr.image.elfcore. */
#include "declarations.inc"
#include "pages.h"

#include <elf.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

static void put(void *headers, long index, const struct lcr_vma *vma, uint64_t start, uint64_t end, uint64_t offset,
                uint64_t file_bytes)
{
    Elf64_Phdr header = {
        .p_type = PT_LOAD,
        .p_flags = (vma->prot & PROT_READ ? PF_R : 0u) | (vma->prot & PROT_WRITE ? PF_W : 0u) |
                   (vma->prot & PROT_EXEC ? PF_X : 0u),
        .p_offset = offset,
        .p_vaddr = start,
        .p_filesz = file_bytes,
        .p_memsz = end - start,
        .p_align = 4096,
    };
    if (headers)
        memcpy((char *)headers + (size_t)index * sizeof(header), &header, sizeof(header));
}

long lcr_core_headers(const struct lcr_vma *vmas, size_t vma_count, struct lcr_run *runs, size_t run_count,
                      uint64_t data_offset, void *headers)
{
    size_t next = 0;
    long count = 0;
    uint64_t offset = data_offset;
    for (size_t i = 0; i < vma_count; i++) {
        const struct lcr_vma *vma = &vmas[i];
        uint64_t at = vma->start;
        if (vma->end <= vma->start || (vma->start | vma->end) % 4096 || (i && vma->start < vmas[i - 1].end))
            return -EINVAL;
        for (; next < run_count && runs[next].start < vma->end; next++) {
            struct lcr_run *run = &runs[next];
            if (run->start < at || run->end <= run->start || run->end > vma->end || (run->start | run->end) % 4096)
                return -EINVAL;
            if (run->start > at)
                put(headers, count++, vma, at, run->start, offset, 0);
            put(headers, count++, vma, run->start, run->end, offset, run->end - run->start);
            if (headers)
                run->offset = offset;
            offset += run->end - run->start;
            at = run->end;
        }
        if (at < vma->end)
            put(headers, count++, vma, at, vma->end, offset, 0);
    }
    return next == run_count ? count : -EINVAL;
}
