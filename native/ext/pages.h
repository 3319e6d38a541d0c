/* One run of stored pages: the virtual range [start, end), page-aligned, and the file offset of its first byte. */
struct lcr_run {
    uint64_t start, end, offset;
};

/* 1 if /proc/PID/pagemap answers PAGEMAP_SCAN (6.7); 1 if it also tells guard pages (6.15). */
int lcr_has_pagemap_scan(void);
int lcr_has_guard_scan(void);
/* What a private mapping holds of its own in [start, end): pages that are present or swapped, and neither the
   file's nor the zero page nor a guard. Fills `runs` (offset 0) and returns how many, or -errno. When `room`
   is used up, *walk_end is where to go on, else it is `end`. Not for [vvar] and other mappings of device pages:
   those count as present. */
long lcr_scan_private(int pagemap_fd, uint64_t start, uint64_t end, struct lcr_run *runs, size_t room,
                      uint64_t *walk_end);
/* The same for a mapping of no file, where it is four times as quick. */
long lcr_scan_anonymous(int pagemap_fd, uint64_t start, uint64_t end, struct lcr_run *runs, size_t room,
                        uint64_t *walk_end);
/* The same by reading an entry for each page, as it is done where PAGEMAP_SCAN is missing. Entries do not tell
   the zero page from others: what was only ever read counts as a page of its own, full of zeros. */
long lcr_scan_private_entries(int pagemap_fd, uint64_t start, uint64_t end, struct lcr_run *runs, size_t room,
                              uint64_t *walk_end);
/* The same for pages that MADV_GUARD_INSTALL made; -ENOTTY or -EINVAL where the kernel does not tell. */
long lcr_scan_guards(int pagemap_fd, uint64_t start, uint64_t end, struct lcr_run *runs, size_t room,
                     uint64_t *walk_end);

/* Write a core file of `size` bytes: head, then the memory of `pid` that `runs` name, which lie in the file one
   after the other from head_len to size. digests[i] becomes the XXH3-64 of chunk i of the file. Needs the right
   to read the process' memory. With `gently`, pages that it shares with others since a fork stay shared, which takes
   longer. Returns 0, or -errno with *where the address in the process (0: the file). */
long lcr_dump(int pid, int core_fd, const void *head, size_t head_len, const struct lcr_run *runs,
              size_t run_count, uint64_t size, uint64_t chunk_bytes, uint64_t *digests, size_t digest_count,
              int workers, int gently, uint64_t *where);
/* One mapping as the core's program headers tell it; prot as of mmap(2). */
struct lcr_vma {
    uint64_t start, end;
    uint32_t prot, unused;
};

/* The PT_LOAD headers of a core file: one for each run of stored pages and one without file bytes for each part
   of a mapping that has none. Both tables ascend, and each run lies inside one mapping. With `headers` NULL:
   how many there are. Else fills `headers` (56 bytes each) and the runs' offsets, which go from `data_offset`
   on without a hole. -EINVAL when a run lies outside the mappings or the order is wrong. */
long lcr_core_headers(const struct lcr_vma *vmas, size_t vma_count, struct lcr_run *runs, size_t run_count,
                      uint64_t data_offset, void *headers);
