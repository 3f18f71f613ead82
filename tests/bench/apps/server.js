// The same work as work.py, on Node's own HTTP server.
'use strict';
const http = require('node:http');

const WAIT_MS = 10;
const CPU_US = 10000;

function burn() {
  const spent = (usage) => usage.user + usage.system;
  const began = spent(process.cpuUsage());
  while (spent(process.cpuUsage()) - began < CPU_US) {
    for (let i = 0; i < 1e4; i++); // simulate CPU work
  }
}

function answer(response) {
  const body = `pid ${process.pid}\n`;
  response.writeHead(200, { 'Content-Type': 'text/plain', 'Content-Length': body.length });
  response.end(body);
}

const server = http.createServer((request, response) => {
  if (request.url === '/wait') {
    setTimeout(answer, WAIT_MS, response);
    return;
  }
  if (request.url === '/death') process.exit(1);
  if (request.url === '/cpu') burn();
  answer(response);
});

// PM2 sends SIGINT for a graceful stop; this is what its documentation asks an app to do.
process.on('SIGINT', () => server.close(() => process.exit(0)));

server.listen(Number(process.env.PORT), '127.0.0.1');
