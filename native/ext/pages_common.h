/* The pages of [start, end) that two processes have in common: private ones in the same frame (or the same place in
   swap), as fork(2) leaves them until one is written to. Both descriptors are of /proc/PID/pagemap, which tells
   frames only to those with CAP_SYS_ADMIN; to others no page is common. Fills `runs` (offset 0) and returns how
   many, or -errno. When `room` is used up, *walk_end is where to go on, else it is `end`. */
long lcr_common_pages(int one_fd, int other_fd, uint64_t start, uint64_t end, struct lcr_run *runs, size_t room,
                      uint64_t *walk_end);
/* What is left of `runs` without `without`; both ascend. Fills `left`, which has room for the runs of both together,
   and returns how many. */
size_t lcr_without(const struct lcr_run *runs, size_t count, const struct lcr_run *without, size_t without_count,
                   struct lcr_run *left);
