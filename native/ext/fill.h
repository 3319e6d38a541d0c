/* What the filler (native/seed/fill.c) is told, in the memory of the process that it fills. */
struct lcr_fill {
    uint64_t fd, size, chunk_bytes;      /* the core file, and how it is divided for the digests */
    uint64_t head, head_bytes;           /* room for what comes before the pages, and how much that is */
    uint64_t places, place_count;        /* struct lcr_run[]: where the rest goes, in the order of the file */
    uint64_t digests, chunk_count;       /* uint64_t[]: XXH3-64 of each chunk */
    uint64_t next;                       /* the next chunk to be taken, by any worker */
    int64_t error;                       /* -errno of the first failure, or -ENODATA for a file that ends too soon */
};

/* 1 if userfaultfd can move pages (UFFDIO_MOVE, 6.8). */
int lcr_can_move_pages(void);
/* 1 if this CPU has AVX2 and the kernel lets it be used. */
int lcr_has_avx2(void);
