/* 1 if this kernel takes 32-bit system calls (CONFIG_IA32_EMULATION, and not switched off at boot). */
int lcr_has_ia32(void);
/* openat(AT_FDCWD, path, flags) as a 32-bit program makes it, by `int $0x80`: without O_LARGEFILE unless it is among
   the flags. A descriptor or -errno; -ENOSYS where the kernel takes no such calls. */
long lcr_open_ia32(const char *path, int flags);
