/* Make `count` calls one after the other, whatever they return, in a process of their own that has livecr's memory and
   descriptors: once it is there it makes all of them, also when livecr is killed meanwhile. `origin` and `must` mean
   nothing here. 0 or -errno, if there is no such process. */
long lcr_calls_to_the_end(struct lcr_call *calls, size_t count);

/* A process that has the PID `pid` and does nothing until it is killed. 0 or -errno. */
long lcr_stand_in(int pid);
