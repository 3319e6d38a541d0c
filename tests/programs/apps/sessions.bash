# PostgreSQL and five clients of it, all children of this shell. sessions.bash DIRECTORY BIN DATA: the server's socket is
# in DIRECTORY, which nobody owns, as DATA; BIN has its executables. Client N reads SQL from the FIFO inN, and
# writes to the file outN. Prints "ready" when the server answers, and how it ended. Knows nothing of livecr.
directory=$1 bin=$2 data=$3
as_nobody=(setpriv --reuid 65534 --regid 65534 --clear-groups)
psql=("$bin/psql" --host "$directory" --username postgres --no-psqlrc --quiet --tuples-only --no-align)

"${as_nobody[@]}" "$bin/postgres" -D "$data" -k "$directory" -c listen_addresses= -c fsync=off -c jit=off &
postmaster=$!
until "${psql[@]}" --command 'SELECT 1' >/dev/null 2>&1; do
    kill -0 $postmaster || exit 1
    sleep 0.1
done
clients=()
for number in 1 2 3 4 5; do
    mkfifo "$directory/in$number"
    "${psql[@]}" <>"$directory/in$number" >"$directory/out$number" 2>&1 &
    clients+=($!)
done
echo ready
for client in "${clients[@]}"; do
    wait "$client" || echo "a client has failed: $?"
done
kill -INT $postmaster
wait $postmaster
echo "postmaster $?"
