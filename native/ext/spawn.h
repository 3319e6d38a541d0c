/* A new process with a chosen PID that has just become the seed: child of the caller, seized with `options`,
   in PTRACE_EVENT_EXEC. offsets: the text for /proc/self/timens_offsets of a new time namespace, or NULL to
   stay in the caller's. Returns the PID or -errno; *step names (LCR_SPAWN_*) what failed. */
long lcr_spawn(int pid, int seed_fd, const char *offsets, long options, int *step);
enum { LCR_SPAWN_PREPARE, LCR_SPAWN_TIME_NAMESPACE, LCR_SPAWN_CLONE, LCR_SPAWN_SEIZE, LCR_SPAWN_EXEC };
