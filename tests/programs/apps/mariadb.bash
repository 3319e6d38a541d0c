# MariaDB and four clients of it, all children of this shell. mariadb.bash DIRECTORY USR: the server's socket and its data are
# in DIRECTORY; below USR are its executables. Client N reads SQL from the FIFO inN, and writes to the file outN. Prints
# "ready" when the server answers, and how it ended. Knows nothing of livecr.
directory=$1 usr=$2
client=("$usr/bin/mariadb" --no-defaults --user root --socket "$directory/socket" --batch --skip-column-names --unbuffered)

"$usr/sbin/mariadbd" --no-defaults --user root --basedir "$usr" --datadir "$directory/data" --socket "$directory/socket" \
    --pid-file "$directory/pid" --skip-networking --innodb-buffer-pool-size 8M --innodb-lock-wait-timeout 600 &
server=$!
until "${client[@]}" --execute 'SELECT 1' >/dev/null 2>&1; do
    kill -0 $server || exit 1
    sleep 0.1
done
clients=()
for number in 1 2 3 4; do
    mkfifo "$directory/in$number"
    "${client[@]}" <>"$directory/in$number" >"$directory/out$number" 2>&1 &
    clients+=($!)
done
echo ready
for one in "${clients[@]}"; do
    wait "$one" || echo "a client has failed: $?"
done
kill -TERM $server
wait $server
echo "server $?"
