// An HTTP server on Node: counts its requests, and has an interval and a deadline of its own. server.js PORT DEADLINE_MS.
// Answers each request with a JSON object. Knows nothing of livecr.
'use strict';
const http = require('node:http');

const [port, deadlineMs] = process.argv.slice(2).map(Number);
const began = process.hrtime.bigint();
const age = () => Number(process.hrtime.bigint() - began);
const told = { clients: 0, ticks: 0, deadline_took_ns: 0 };

http.createServer((request, response) => {
    told.clients++;
    response.setHeader('Connection', 'close');
    response.end(JSON.stringify({ ...told, line: request.url, age_ns: age() }) + '\n');
}).listen(port, '127.0.0.1');
setInterval(() => told.ticks++, 20);
setTimeout(() => { told.deadline_took_ns = age(); }, deadlineMs);
