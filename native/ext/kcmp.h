/* Find the description of descriptor `fd` of process `pid` among `count` of other ones, which are in the order that
   kcmp(2) tells: pids[i] has each under fds[i]. Its place, or -1 - the place where it has to be inserted; below
   -LCR_KCMP_FAILED that less an errno. */
enum { LCR_KCMP_FAILED = 1 << 30 };
long lcr_kcmp_find(const int *pids, const int *fds, long count, int pid, int fd);
