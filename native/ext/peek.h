/* The program of native/bpf/peek.bpf.c: a descriptor of it, loaded for the running kernel, or -errno. */
int lcr_peek_open(const char *object);
/* Run it on a struct request, which it answers in place: 0 or -errno. */
int lcr_peek(int program, void *request, size_t size);
