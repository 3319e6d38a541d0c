/* The task iterator of native/bpf/task.bpf.c. `cache` is a directory that keeps the program as it was relocated for
   the running kernel, under the name `key` (boot id and object's version): with it the kernel's whole BTF need not
   be read again; "" means none. Returns a descriptor of the loaded program, or -errno. */
int lcr_bpf_open(const char *object, const char *cache, const char *key);
/* Load all of an object, without a cache: descriptors of its `count` programs, in the order of the file. 0 or -errno. */
int lcr_bpf_open_all(const char *object, int *programs, size_t count);
/* Whether the last lcr_bpf_open() was served from the cache. */
int lcr_bpf_was_cached(void);
/* One struct task_report for each task of thread group `pid`: bytes, -ENOSPC when `room` is too small, or -errno. */
long lcr_bpf_read(int program, int pid, void *buffer, size_t room);
void lcr_bpf_close(int program);
/* The last thing that libbpf or the verifier complained of, "" if nothing. */
const char *lcr_bpf_message(void);
