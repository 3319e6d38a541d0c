struct lcr_run;

/* The memory that bytes [from, to) of the core file belong to, as struct iovec (base, length) pairs in `iovecs`,
   `room` of them at most. *after: the file offset behind the last. Returns how many pairs. */
long lcr_iovecs(const struct lcr_run *runs, size_t count, uint64_t from, uint64_t to, uint64_t *iovecs,
                size_t room, uint64_t *after);
