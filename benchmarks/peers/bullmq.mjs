// BullMQ on Node: its worker (`node bullmq.mjs work`) and its producer (`produce`), which takes the same orders as
// benchmarks/driver.py. The libraries are in the folder that ARQD_BENCH_MODULES names.
import { writeFileSync } from 'node:fs';
import { appendFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';

const env = process.env;
const { Queue, QueueEvents, Worker } = createRequire(`${env.ARQD_BENCH_MODULES}/`)('bullmq');
const setting = JSON.parse(env.ARQD_BENCH_SETTING ?? '{}');
const folder = env.ARQD_BENCH_FOLDER;
const address = new URL(env.ARQD_BENCH_URL);
const connection = {
  host: address.hostname,
  port: Number(address.port),
  password: decodeURIComponent(address.password),
  maxRetriesPerRequest: null,
};
const PERIOD = 50;
const CHUNK = 1000;

function work() {
  let runs = 0;
  let told = 0;
  const count = Buffer.alloc(8);
  const path = `${folder}/${env.ARQD_BENCH_WORKER}-${process.pid}.mapped`;
  const tell = () => {
    if (runs !== told) {
      count.writeBigUInt64LE(BigInt(runs));
      writeFileSync(path, count);
      told = runs;
    }
  };
  const worker = new Worker(
    'bench',
    async job => {
      if (job.name === 'started') {
        appendFileSync(`${folder}/starts`, `${job.data.sent} ${process.hrtime.bigint()}\n`);
        return 0;
      }
      if (job.name === 'wait') await sleep(10);
      runs += 1;
      return job.data.user;
    },
    { connection, concurrency: setting.concurrency ?? 1 },
  );
  worker.on('error', error => console.error(String(error)));
  const timer = setInterval(tell, 10);
  process.on('SIGTERM', async () => {
    await worker.close();
    clearInterval(timer);
    tell();
    process.exit(0);
  });
}

function produce() {
  const queue = new Queue('bench', { connection });
  let events;
  const seconds = since => Number(process.hrtime.bigint() - since) / 1e9;
  // Between half the period and one and a half times it, drawn from a seed (mulberry32).
  const pauses = seed => () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return sleep((0.5 + ((t ^ (t >>> 14)) >>> 0) / 2 ** 32) * PERIOD);
  };
  const orders = {
    'one by one': async ({ count }) => {
      const begin = process.hrtime.bigint();
      for (let user = 0; user < count; user++) await queue.add('noop', { user, name: 'Ada' });
      return seconds(begin);
    },
    many: async ({ job, count, name = 'Ada', delay = 0 }) => {
      const begin = process.hrtime.bigint();
      const opts = delay ? { delay: delay * 1000 } : {};
      for (let start = 0; start < count; start += CHUNK) {
        const size = Math.min(CHUNK, count - start);
        await queue.addBulk(
          Array.from({ length: size }, (_, i) => ({ name: job, data: { user: start + i, name }, opts })),
        );
      }
      return seconds(begin);
    },
    singles: async ({ count, seed }) => {
      const pause = pauses(seed);
      for (let i = 0; i < count; i++) {
        await pause();
        await queue.add('started', { sent: String(process.hrtime.bigint()) });
      }
      return count;
    },
    trips: async ({ count, seed }) => {
      const pause = seed === undefined ? undefined : pauses(seed);
      if (!events) {
        events = new QueueEvents('bench', { connection });
        await events.waitUntilReady();
      }
      const found = [];
      for (let user = 0; user < count; user++) {
        if (pause) await pause();
        const begin = process.hrtime.bigint();
        const job = await queue.add('noop', { user, name: 'Ada' });
        const result = await job.waitUntilFinished(events, 30000);
        found.push(seconds(begin));
        if (result !== user) throw new Error(`the result of job ${user} is ${result}`);
      }
      return found;
    },
  };
  const lines = createInterface({ input: process.stdin });
  lines.on('line', async line => {
    const order = JSON.parse(line);
    try {
      console.log(JSON.stringify(await orders[order.do](order)));
    } catch (error) {
      console.error(String(error));
      process.exit(1);
    }
  });
  lines.on('close', () => process.exit(0));
}

if (process.argv[2] === 'work') work();
else produce();
