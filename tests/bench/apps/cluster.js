// The article's cluster: a worker per fork, a new one after a crash, and on SIGUSR2 a restart of
// one worker after the other. NODE_CLUSTER_SCHED_POLICY (rr, none) chooses who accepts.
'use strict';
const cluster = require('node:cluster');

if (cluster.isPrimary) {
  for (let i = 0; i < Number(process.env.WORKERS); i++) cluster.fork();

  cluster.on('exit', (worker, code) => {
    if (code !== 0 && !worker.exitedAfterDisconnect) cluster.fork();
  });

  process.on('SIGUSR2', () => {
    const workers = Object.values(cluster.workers);
    const restart = (index) => {
      const worker = workers[index];
      if (!worker) return;
      worker.on('exit', () => {
        if (!worker.exitedAfterDisconnect) return;
        cluster.fork().on('listening', () => restart(index + 1));
      });
      worker.disconnect();
    };
    restart(0);
  });
} else {
  require('./server.js');
}
