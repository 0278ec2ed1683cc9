// Runs the network on the tiles of an image. Messages in: load, run, cancel. Messages out: loaded, tile, rows, bicubic, done, failed.
import { axis, bicubicRows, bicubicTaps, mirror } from './tiles.js';

const BAND = 64;  // rows of the bicubic image per message
let ort, session, manifest, current = 0;

const fail = (id, error) => postMessage({ type: 'failed', id, text: String(error?.message ?? error) });

async function load({ provider, model }) {
  const isGpu = provider === 'webgpu';
  ort = await import(isGpu ? './ort/ort.webgpu.bundle.min.mjs' : './ort/ort.wasm.bundle.min.mjs');
  const file = isGpu ? 'ort-wasm-simd-threaded.asyncify.wasm' : 'ort-wasm-simd-threaded.wasm';
  ort.env.wasm.wasmPaths = { wasm: new URL(`./ort/${file}`, import.meta.url).href };
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(8, navigator.hardwareConcurrency || 1) : 1;
  ort.env.logLevel = 'error';
  const answer = await fetch(new URL(`./models/${model.file}`, import.meta.url));
  if (!answer.ok) throw new Error(`${model.file}: ${answer.status} ${answer.statusText}`);
  const former = session;
  session = undefined;  // so that a failed load does not release it a second time
  await former?.release();
  session = await ort.InferenceSession.create(new Uint8Array(await answer.arrayBuffer()), { executionProviders: [isGpu ? 'webgpu' : 'wasm'] });
  manifest = model;
  postMessage({ type: 'loaded', threads: isGpu ? 0 : ort.env.wasm.numThreads, provider });
}

// A tile as float32 [1, 3, n, n] in [0, 1]; pixels beyond the image are mirrored.
function tileOf(pixels, width, height, x, y, n, out) {
  for (let row = 0; row < n; row++) {
    const from = mirror(y + row, height) * width;
    for (let column = 0; column < n; column++) {
      const at = (from + mirror(x + column, width)) * 4, to = row * n + column;
      for (let c = 0; c < 3; c++) out[c * n * n + to] = pixels[at + c] / 255;
    }
  }
  return out;
}

const toBytes = (unit) => unit * 255 + 0.5 | 0;  // of values in [0, 1]

function postBicubic(id, pixels, width, height, scale) {
  const rows = bicubicTaps(height, scale), columns = bicubicTaps(width, scale);
  for (let top = 0; top < height * scale; top += BAND) {
    const bottom = Math.min(top + BAND, height * scale);
    const made = bicubicRows(pixels, width, scale, rows, columns, top, bottom);
    postMessage({ type: 'bicubic', id, top, pixels: made }, [made.buffer]);
  }
}

async function run({ id, pixels, width, height }) {
  const { tile: n, overlap, scale: s } = manifest, m = n * s;
  postBicubic(id, pixels, width, height, s);
  const rows = axis(Math.max(height, n), n, overlap, s), columns = axis(Math.max(width, n), n, overlap, s);
  const wide = Math.max(width, n) * s, total = rows.starts.length * columns.starts.length;
  const input = new Float32Array(3 * n * n);
  let sum = new Float32Array(3 * m * wide), done = 0;  // the rows of the current line of tiles
  for (let i = 0; i < rows.starts.length; i++) {
    for (let j = 0; j < columns.starts.length; j++) {
      if (id !== current) return;
      const x = columns.starts[j], y = rows.starts[i];
      const feed = { lr: new ort.Tensor('float32', tileOf(pixels, width, height, x, y, n, input), [1, 3, n, n]) };
      const data = (await session.run(feed)).image.data;
      const preview = new Uint8ClampedArray(m * m * 4).fill(255);
      for (let row = 0; row < m; row++) {
        const wy = rows.weights[i][row];
        for (let column = 0; column < m; column++) {
          const weight = Math.fround(wy * columns.weights[j][column]), at = 3 * (row * wide + x * s + column);
          for (let c = 0; c < 3; c++) {
            const value = data[c * m * m + row * m + column];
            sum[at + c] += value * weight;
            preview[(row * m + column) * 4 + c] = toBytes(value);
          }
        }
      }
      postMessage({ type: 'tile', id, x: x * s, y: y * s, side: m, pixels: preview, done: ++done, total }, [preview.buffer]);
      await new Promise((resolve) => setTimeout(resolve));  // so that a cancel arrives
    }
    // rows above the next line of tiles are finished
    const next = i + 1 < rows.starts.length ? (rows.starts[i + 1] - rows.starts[i]) * s : m;
    const top = rows.starts[i] * s, count = Math.min(next, height * s - top), finished = new Uint8ClampedArray(count * width * s * 4).fill(255);
    for (let row = 0; row < count; row++) {
      for (let column = 0; column < width * s; column++) {
        for (let c = 0; c < 3; c++) {
          finished[(row * width * s + column) * 4 + c] = toBytes(Math.min(1, Math.max(0, sum[3 * (row * wide + column) + c])));
        }
      }
    }
    postMessage({ type: 'rows', id, top, pixels: finished }, [finished.buffer]);
    sum.copyWithin(0, 3 * wide * next);
    sum.fill(0, sum.length - 3 * wide * next);
  }
  if (id === current) postMessage({ type: 'done', id });
}

onmessage = async ({ data }) => {
  if (data.type === 'cancel') { current = 0; return; }
  if (data.type === 'run') current = data.id;
  try {
    await (data.type === 'load' ? load(data) : run(data));
  } catch (error) {
    fail(data.id ?? 0, error);
  }
};
