// The page: takes an image, shows progress and result. All work is done in worker.js.
const $ = (id) => document.getElementById(id);
const MOST_SIDE = 16384, MOST_PIXELS = 120e6, BYTES = 16;  // of the result: bounds of canvases; bytes per pixel of all copies together
const worker = new Worker('worker.js', { type: 'module' });
let models, scale = 4, job = 0, started = 0, name = 'image', engine = '';
let sides = [0, 0];

function showError(text) {
  $('error').textContent = text;
  $('error').hidden = !text;
}

function showWork(visible) {
  $('work').hidden = !visible;
  $('drop').hidden = visible;
  if (!visible) { $('bicubic').width = $('ours').width = 0; }
}

function available() {  // bytes that a page may take, as far as browsers say
  return (navigator.deviceMemory ?? 4) * 1e9 / 2;
}

// Why an image of this size cannot be enlarged; empty if it can.
function tooLarge(width, height) {
  const [w, h] = [width * scale, height * scale], most = Math.min(MOST_PIXELS, available() / BYTES);
  if (w <= MOST_SIDE && h <= MOST_SIDE && w * h <= most) return '';
  return `This image has ${width} × ${height} pixels and would become ${w} × ${h}. The most for this browser is ${MOST_SIDE} pixels per side and ` +
    `${Math.floor(most / 1e6)} megapixels. Crop it, or use “samdiff infer”, which takes images of up to 50 megapixels.`;
}

// Width and height as the header states them: nothing is decoded, which could take more memory than there is.
async function statedSize(file) {
  const image = new Image(), url = URL.createObjectURL(file);
  try {
    await new Promise((resolve, reject) => { image.onload = resolve; image.onerror = reject; image.src = url; });
    return [image.naturalWidth, image.naturalHeight];
  } finally {
    URL.revokeObjectURL(url);
  }
}

// Whether a canvas of its size could be made: browsers do not report it, drawing has no effect.
function holds(canvas) {
  try {
    const context = canvas.getContext('2d'), [x, y] = [canvas.width - 1, canvas.height - 1];
    context.fillRect(x, y, 1, 1);
    const drawn = context.getImageData(x, y, 1, 1).data[3] === 255;
    context.clearRect(x, y, 1, 1);
    return drawn;
  } catch {
    return false;
  }
}

async function pixelsOf(file) {
  const stated = tooLarge(...(await statedSize(file)));
  if (stated) throw new Error(stated);
  const bitmap = await createImageBitmap(file, { colorSpaceConversion: 'none' });
  const { width, height } = bitmap, problem = tooLarge(width, height);
  if (problem) { bitmap.close(); throw new Error(problem); }
  const canvas = new OffscreenCanvas(width, height), context = canvas.getContext('2d', { willReadFrequently: true });
  context.fillStyle = '#fff';  // under transparent pixels
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return { pixels: context.getImageData(0, 0, width, height).data, width, height };
}

async function start(file) {
  showError('');
  if (!engine) { showError('The model is still loading.'); return; }
  let image;
  try {
    image = await pixelsOf(file);
  } catch (error) {
    const known = error instanceof Error && error.message.startsWith('This image');
    showError(known ? error.message : `“${file.name}” cannot be read as an image, or is too large for this browser’s memory.`);
    return;
  }
  name = (file.name || 'image').replace(/\.[^.]*$/, '');
  sides = [image.width * scale, image.height * scale];
  for (const id of ['ours', 'bicubic']) [$(id).width, $(id).height] = sides;
  if (!['ours', 'bicubic'].every((id) => holds($(id)))) {
    showWork(false);
    showError(`This browser does not have enough memory for a result of ${sides.join(' × ')} pixels. Close other tabs, crop the image, or use “samdiff infer”.`);
    return;
  }
  $('stack').style.setProperty('--fit', `${(72 * sides[0]) / sides[1]}vh`);  // the whole image is visible
  showWork(true);
  [$('progress').value, $('download').disabled, $('cancel').hidden] = [0, true, false];
  $('status').textContent = `${image.width} × ${image.height} → ${sides.join(' × ')} pixels`;
  started = performance.now();
  $('work').dataset.state = 'working';
  worker.postMessage({ type: 'run', id: ++job, ...image }, [image.pixels.buffer]);
  $('split').focus();
}

const draw = (id, pixels, x, y, width) => $(id).getContext('2d').putImageData(new ImageData(pixels, width), x, y);
const seconds = (value) => (value < 90 ? `${value.toFixed(value < 10 ? 1 : 0)} s` : `${Math.round(value / 60)} min`);

const answers = {
  loaded({ provider, threads }) {
    engine = provider === 'webgpu' ? 'GPU' : threads > 1 ? `CPU, ${threads} threads` : 'CPU, one thread';
    $('ready').textContent = `Ready: ${engine}.`;
    $('choose').disabled = false;
    document.body.dataset.engine = engine;
  },
  tile({ id, x, y, side, pixels, done, total }) {
    if (id !== job) return;
    draw('ours', pixels, x, y, side);
    const spent = (performance.now() - started) / 1000;
    $('progress').value = done / total;
    $('status').textContent = `${Math.round((100 * done) / total)} %, about ${seconds((spent / done) * (total - done))} left`;
  },
  rows({ id, top, pixels }) { if (id === job) draw('ours', pixels, 0, top, sides[0]); },
  bicubic({ id, top, pixels }) { if (id === job) draw('bicubic', pixels, 0, top, sides[0]); },
  done({ id }) {
    if (id !== job) return;
    const spent = (performance.now() - started) / 1000, each = spent / ((sides[0] * sides[1]) / 1e6);
    $('status').textContent = `${sides.join(' × ')} pixels in ${seconds(spent)}, ${each.toFixed(1)} s per megapixel (${engine})`;
    [$('download').disabled, $('cancel').hidden, $('work').dataset.state, $('work').dataset.each] = [false, true, 'done', each.toFixed(3)];
    $('download').focus();
  },
  failed({ id, text }) {
    if (id && id !== job) return;
    if (id) { showWork(false); }
    if ($('processor').value === 'webgpu') {  // a GPU that cannot run it, or was lost
      showError(`The GPU failed (${text}), so the CPU is used now.${id ? ' Choose the image again.' : ''}`);
      choose('cpu');
      return;
    }
    showError(`${id ? 'The image could not be enlarged' : 'The model could not be loaded'}: ${text}`);
  },
};
worker.onmessage = ({ data }) => answers[data.type](data);
worker.onerror = (event) => showError(`This browser cannot run the upscaler (${event.message || 'module workers or WebAssembly are missing'}).`);

function stop() {
  worker.postMessage({ type: 'cancel' });
  job++;
  showWork(false);
  $('choose').focus();
}

// Load the model for a processor: int8 on the CPU, float32 on a GPU.
function choose(processor) {
  engine = '';
  $('choose').disabled = true;
  $('processor').value = processor;
  $('ready').textContent = 'Loading the model …';
  const model = models[processor === 'webgpu' ? 'gpu' : 'cpu'];
  scale = model.scale;
  $('factor').textContent = scale;
  worker.postMessage({ type: 'load', provider: processor === 'webgpu' ? 'webgpu' : 'wasm', model });
}

async function begin() {
  const answer = await fetch('models/models.json');
  if (!answer.ok) throw new Error(`models.json: ${answer.status}`);
  models = await answer.json();
  const { licence, attribution, network } = models.cpu;
  $('about').textContent = `Network: ${network}. Licence of its weights: ${licence || 'not stated'}${attribution ? `, ${attribution}` : ''}. ` +
    'The added detail is synthesised; it was not photographed. Transparent pixels become white.';
  const adapter = models.gpu && (await navigator.gpu?.requestAdapter().catch(() => null));
  const isSlow = Boolean(adapter?.info?.isFallbackAdapter ?? adapter?.isFallbackAdapter);  // a GPU that the CPU imitates
  if (adapter) $('processor').add(new Option(isSlow ? 'GPU (WebGPU), emulated and slow' : 'GPU (WebGPU)', 'webgpu'));
  const wanted = new URLSearchParams(location.search).get('processor');
  choose(adapter && (wanted === 'gpu' || (wanted !== 'cpu' && !isSlow)) ? 'webgpu' : 'cpu');
  if (wanted === 'gpu' && !adapter) showError('This browser offers no GPU (WebGPU), so the CPU is used.');
}

$('choose').onclick = () => $('file').click();
$('file').onchange = () => { if ($('file').files[0]) start($('file').files[0]); $('file').value = ''; };
$('processor').onchange = () => choose($('processor').value);
$('cancel').onclick = $('again').onclick = stop;
$('split').oninput = () => $('stack').style.setProperty('--split', `${$('split').value}%`);
$('zoom').onclick = () => {
  const actual = $('stack').classList.toggle('actual');
  $('zoom').setAttribute('aria-pressed', actual);
};
$('download').onclick = () => $('ours').toBlob((blob) => {
  if (!blob) { showError('There is not enough memory to write the PNG file.'); return; }
  const link = Object.assign(document.createElement('a'), { href: URL.createObjectURL(blob), download: `${name}_x${scale}.png` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60e3);
}, 'image/png');
addEventListener('dragover', (event) => { event.preventDefault(); $('drop').classList.add('over'); });
addEventListener('dragleave', () => $('drop').classList.remove('over'));
addEventListener('drop', (event) => {
  event.preventDefault();
  $('drop').classList.remove('over');
  if (event.dataTransfer.files[0]) start(event.dataTransfer.files[0]);
});
addEventListener('paste', (event) => { const [file] = event.clipboardData?.files ?? []; if (file) start(file); });
begin().catch((error) => showError(`The page is incomplete (${error.message}); build it again with “make web”.`));
