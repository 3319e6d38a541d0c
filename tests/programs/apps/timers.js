// Timers of Node: its event loop, in epoll_pwait until the next of them, and a worker thread in Atomics.wait.
// timers.js WAIT_MS. Prints "ready", then "NAME ASKED_NS TOOK_NS" for each wait that has ended, by process.hrtime,
// then "done". Knows nothing of livecr.
'use strict';
const assert = require('node:assert');
const { setTimeout: promised } = require('node:timers/promises');
const { Worker, isMainThread, parentPort, workerData } = require('node:worker_threads');

const waitMs = Number(isMainThread ? process.argv[2] : workerData);
const TICK_MS = 50;

function wait() {
    const began = process.hrtime.bigint();
    parentPort.postMessage('ready');
    const answer = Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, waitMs);
    const took = process.hrtime.bigint() - began;
    assert.equal(answer, 'timed-out');
    parentPort.postMessage(`Atomics.wait ${BigInt(waitMs) * 1000000n} ${took}`);
}

function main() {
    const worker = new Worker(__filename, { workerData: waitMs });
    worker.on('message', (text) => console.log(text));
    // libuv counts whole milliseconds, from when its loop last looked at the clock: it may be early by less than one.
    // It looks again before what setImmediate says is done.
    const began = process.hrtime.bigint();
    const say = (name) => console.log(name, String(BigInt(waitMs - 1) * 1000000n), String(process.hrtime.bigint() - began));
    setImmediate(() => {
        setTimeout(() => say('setTimeout'), waitMs);
        promised(waitMs).then(() => say('promise'));
        AbortSignal.timeout(waitMs).addEventListener('abort', () => say('AbortSignal'));
        const once = setInterval(() => { clearInterval(once); say('setInterval'); }, waitMs);

        let ticks = 0;
        const ticker = setInterval(() => ticks++, TICK_MS);
        setTimeout(() => {
            clearInterval(ticker);
            assert(ticks <= waitMs / TICK_MS && ticks > waitMs / TICK_MS / 2, `${ticks} ticks`);
        }, waitMs);
    });
    process.on('exit', () => console.log('done'));
}

if (isMainThread) main(); else wait();
