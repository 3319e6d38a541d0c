/* XXH3-64 of each chunk of a file of `size` bytes, by as many threads as there are workers. 0, or -errno; -ENODATA when the
   file is shorter. */
long lcr_digest(int fd, uint64_t size, uint64_t chunk_bytes, uint64_t *digests, size_t digest_count, int workers);
/* XXH3-64 of a buffer. */
uint64_t lcr_xxh3(const void *data, size_t size);
