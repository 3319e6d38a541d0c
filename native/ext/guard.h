/* A process that ends those of `pidfds` with SIGKILL if the caller ends without having dismissed it. *pipe is the
   caller's end of what joins them. Returns its PID or -errno. */
long lcr_guard(const int *pidfds, size_t count, int *pipe);
/* It has to end, and they do not; waits until it has. */
void lcr_dismiss_guard(int guard, int pipe);
