# A pipeline of four, and jobs in the background that end in different ways. pipeline.bash GO LINES: 400 lines pass
# through the pipeline into the file LINES, half of them only when the file GO is there. Prints "ready", then how
# each job has ended. Short-lived processes are made all the time. Knows nothing of livecr.
set -o pipefail
until_go() { until [ -e "$go" ]; do sleep 0.05; done; }
go=$1

sleep 1000 &
endless=$!
(until_go && exit 3) &
patient=$!
(exit 7) & # over before anybody asks
early=$!

for ((i = 1; i <= 400; i++)); do
    [ $((i % 20)) -ne 0 ] || /bin/sleep 0.01
    [ "$i" -ne 200 ] || until_go
    echo "$i"
done | while read -r line; do echo "line $line"; done | grep --line-buffered line | cat >"$2" &
pipeline=$!

echo ready
wait $patient
echo "patient $?"
wait $early
echo "early $?"
wait $pipeline
echo "pipeline $?"
echo "running $(jobs -r | wc -l)"
kill $endless
wait $endless
echo "endless $?"
wait
