// Thumbnails by sharp, for benchmarks/images.py: reads a line of JSON, answers with one.
//   {"do": "thumbnails", "files": [...], "folder": "...", "flying": n, "threads": n} → {"seconds", "processor", "rss"}
//   {"do": "sizes", "cases": [[width, height, boxWidth|null, boxHeight|null, fit, withoutEnlargement], ...]} → {"sizes"}
import { createInterface } from 'node:readline';
import { join } from 'node:path';
import sharp from 'sharp';

async function thumbnails({ files, folder, flying, threads }) {
  sharp.concurrency(threads);
  sharp.cache(false);
  const waiting = files.map((file, number) => [file, join(folder, `${number}.jpg`)]);
  const before = process.cpuUsage();
  const begun = process.hrtime.bigint();
  await Promise.all(
    Array.from({ length: flying }, async () => {
      for (let next = waiting.shift(); next; next = waiting.shift()) {
        await sharp(next[0]).autoOrient().resize(200, 200, { fit: 'cover' }).jpeg({ quality: 80 }).toFile(next[1]);
      }
    }),
  );
  const seconds = Number(process.hrtime.bigint() - begun) / 1e9;
  const { user, system } = process.cpuUsage(before);
  return { seconds, processor: (user + system) / 1e6, rss: process.resourceUsage().maxRSS * 1024 };
}

async function sizes({ cases }) {
  const found = [];
  for (const [width, height, boxWidth, boxHeight, fit, withoutEnlargement] of cases) {
    const blank = sharp({ create: { width, height, channels: 3, background: 'red' } });
    const source = await blank.png({ compressionLevel: 1 }).toBuffer();
    const options = { width: boxWidth ?? undefined, height: boxHeight ?? undefined, fit, withoutEnlargement };
    const made = await sharp(source).resize(options).raw().toBuffer({ resolveWithObject: true });
    found.push([made.info.width, made.info.height]);
  }
  return { sizes: found, version: sharp.versions.sharp };
}

for await (const line of createInterface({ input: process.stdin })) {
  const asked = JSON.parse(line);
  console.log(JSON.stringify(await { thumbnails, sizes }[asked.do](asked)));
}
