# read -t of bash, on a FIFO that nobody writes to. read.bash FIFO WAIT_MS. Prints "ready", then "read-t ASKED_NS
# TOOK_NS", then "done". By /proc/uptime, which cuts CLOCK_BOOTTIME to hundredths of a second: the difference of two
# readings may be short by nearly one. The FIFO must be there. Knows nothing of livecr.
exec 3<>"$1"
printf -v seconds '%d.%03d' $(($2 / 1000)) $(($2 % 1000))

now() { # into REPLY, without another process
    read -r REPLY _ </proc/uptime
    REPLY=${REPLY/./}
}

now
began=$REPLY
echo ready
read -r -t "$seconds" -u 3
status=$? # over 128: the time was over
now
echo "read-t $(($2 * 1000000 - 10000000)) $(((REPLY - began) * 10000000))"
[ $status -gt 128 ] && echo done
