/* What native/seed/pump.c is told, in the memory of the process: an io_uring and how far it is to be brought. */
struct lcr_pump {
    uint64_t fd, entries, sqe_bytes;
    uint64_t sq_tail, sq_array, sqes;    /* addresses; sq_array is 0 where there is none */
    uint64_t cq_head, cq_tail;
    uint64_t completing, silent;         /* how many operations: with a completion, and without one */
    int64_t error;                       /* -errno of the first that failed */
};
