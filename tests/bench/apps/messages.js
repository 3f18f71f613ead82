// What messages.py does, with worker.send and process.send: see there.
'use strict';
const cluster = require('node:cluster');
const net = require('node:net');

const SIZES = { '100 B': 100, '10 kB': 10_000 };
const BATCH_BYTES = 200_000;
const BATCHES = 2;
const UNDER_WAY = [1, 64];
const LARGE_BYTES = 1_000_000;
const LARGE = 10;
const SECONDS = Number(process.env.SECONDS);

const say = (name, value) => process.stdout.write(`${name}\t${value}\n`);
const elapsed = (began) => (performance.now() - began) / 1000;

class Acknowledged {
  count = 0;
  #changed = () => {};

  constructor() {
    cluster.on('message', () => {
      this.count++;
      this.#changed();
    });
  }

  async until(count) {
    while (this.count < count) await new Promise((resolve) => { this.#changed = resolve; });
  }
}

async function broadcast(workers) {
  const acknowledged = new Acknowledged();
  for (const [name, size] of Object.entries(SIZES)) {
    const text = 'x'.repeat(size);
    const batch = Math.max(1, Math.floor(BATCH_BYTES / size / 4));
    const began = performance.now();
    const first = acknowledged.count;
    let sent = 0;
    while (elapsed(began) < SECONDS) {
      for (let number = 0; number < batch; number++) {
        for (const worker of workers) worker.send({ last: number === batch - 1, text });
      }
      sent++;
      await acknowledged.until(first + (sent - BATCHES + 1) * workers.length);
    }
    await acknowledged.until(first + sent * workers.length);
    say(`broadcast ${name}`, (sent * batch) / elapsed(began));
  }
}

async function requests([worker]) {
  const waiting = new Map();
  let numbers = 0;
  worker.on('message', ({ number, answer }) => {
    waiting.get(number)(answer);
    waiting.delete(number);
  });
  const request = (message) => new Promise((resolve) => {
    waiting.set(++numbers, resolve);
    worker.send({ number: numbers, message });
  });
  for (const underWay of UNDER_WAY) {
    for (const [name, size] of Object.entries(SIZES)) {
      const text = 'x'.repeat(size);
      const began = performance.now();
      let done = 0;
      const ask = async () => {
        while (elapsed(began) < SECONDS) {
          const answer = await request({ text });
          if (answer.text !== text) throw new Error('another answer');
          done++;
        }
      };
      await Promise.all(Array.from({ length: underWay }, ask));
      say(`round trips ${underWay}, ${name}`, done / elapsed(began));
    }
  }
}

async function handOff([worker]) {
  const acknowledged = new Acknowledged();
  const text = 'x'.repeat(LARGE_BYTES);
  for (let sent = 1; worker.isConnected(); sent++) {
    for (let number = 0; number < LARGE; number++) {
      worker.send({ last: number === LARGE - 1, text });
    }
    await acknowledged.until(sent);
    if (sent === 1) say('flows', 1);
  }
}

if (cluster.isPrimary) {
  const WORK = { broadcast, requests, 'hand-off': handOff };
  const wanted = Number(process.env.WORKERS);
  let listening = 0;
  cluster.on('listening', async () => {
    if (++listening < wanted) return;
    await WORK[process.env.WORK](Object.values(cluster.workers));
    cluster.disconnect();
  });
  for (let i = 0; i < wanted; i++) cluster.fork();
} else {
  process.on('message', ({ number, message, last }) => {
    if (number !== undefined) process.send({ number, answer: { text: message.text } });
    else if (last) process.send({ acknowledged: true });
  });
  net.createServer((connection) => connection.end('x')).listen(Number(process.env.PORT), '127.0.0.1');
}
