// The tiles of an image, and the weights that blend them: the same numbers as `model/inference/tile_weights.py`. Pure.

// Python's round(): halves to the even integer.
const roundEven = (x) => { const r = Math.round(x); return Math.abs(x % 1) === 0.5 && r % 2 ? r - 1 : r; };

function ramp(size, overlap, fadesIn, fadesOut) {
  const window = new Float64Array(size).fill(1);
  const rise = (i) => Math.sin((Math.PI / 2) * Math.min(1, Math.max(0, (i + 0.5 - overlap / 4) / Math.max(overlap / 2, 1)))) ** 2;
  for (let i = 0; i < overlap; i++) {
    if (fadesIn) window[i] = rise(i);
    if (fadesOut) window[size - 1 - i] *= rise(i);
  }
  return window;
}

// Tiles of `size` pixels along an axis of `length` pixels (length >= size): first pixels, and a weight per enlarged pixel of each tile.
export function axis(length, size, overlap, scale) {
  if (size >= length) return { starts: [0], weights: [new Float32Array(length * scale).fill(1)] };
  const count = Math.ceil((length - size) / (size - overlap)) + 1;
  const starts = Array.from({ length: count }, (_, i) => roundEven((i * (length - size)) / (count - 1)));
  const windows = starts.map((_, i) => ramp(size * scale, overlap * scale, i > 0, i < count - 1));
  const total = new Float64Array(length * scale);
  starts.forEach((start, i) => windows[i].forEach((value, k) => { total[start * scale + k] += value; }));
  return { starts, weights: starts.map((start, i) => Float32Array.from(windows[i], (value, k) => value / total[start * scale + k])) };
}

// Index of a pixel mirrored at the borders, as NumPy's pad(mode="symmetric") and MATLAB's imresize mirror.
export function mirror(i, n) {
  const k = ((i % (2 * n)) + 2 * n) % (2 * n);
  return k < n ? k : 2 * n - 1 - k;
}

const cubic = (x) => {
  const a = Math.abs(x);
  return a <= 1 ? 1.5 * a ** 3 - 2.5 * a ** 2 + 1 : a < 2 ? -0.5 * a ** 3 + 2.5 * a ** 2 - 4 * a + 2 : 0;
};

// MATLAB's bicubic taps of each enlarged pixel along an axis of n pixels: four indices and four weights.
export function bicubicTaps(n, scale) {
  const index = new Int32Array(4 * n * scale), weight = new Float32Array(4 * n * scale);
  for (let i = 0; i < n * scale; i++) {
    const centre = (i + 0.5) / scale - 0.5, first = Math.floor(centre) - 1;
    for (let k = 0; k < 4; k++) {
      index[4 * i + k] = mirror(first + k, n);
      weight[4 * i + k] = cubic(centre - first - k);
    }
  }
  return { index, weight };
}

// Rows top .. bottom - 1 of the bicubic enlargement of an RGBA image, as RGBA.
export function bicubicRows(pixels, width, scale, rows, columns, top, bottom) {
  const wide = width * scale, out = new Uint8ClampedArray((bottom - top) * wide * 4).fill(255);
  const line = new Float32Array(width * 3);
  for (let y = top; y < bottom; y++) {
    line.fill(0);
    for (let k = 0; k < 4; k++) {
      const from = rows.index[4 * y + k] * width * 4, w = rows.weight[4 * y + k];
      for (let x = 0; x < width; x++) for (let c = 0; c < 3; c++) line[3 * x + c] += w * pixels[from + 4 * x + c];
    }
    for (let x = 0; x < wide; x++) {
      for (let c = 0; c < 3; c++) {
        let sum = 0;
        for (let k = 0; k < 4; k++) sum += columns.weight[4 * x + k] * line[3 * columns.index[4 * x + k] + c];
        out[((y - top) * wide + x) * 4 + c] = sum;
      }
    }
  }
  return out;
}
