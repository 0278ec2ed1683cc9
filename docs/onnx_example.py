"""Sample an image (DDIM) with onnxruntime, without PyTorch: onnx_example.py FOLDER LR.png SR.png [STEPS]; `samdiff export-model` wrote FOLDER."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

from samdiff.pipeline.images.decode import decode_picture

folder, source, target, steps = *sys.argv[1:4], int((*sys.argv, "25")[4])
rrdb, denoiser = (onnxruntime.InferenceSession(f"{folder}/{name}.onnx") for name in ("rrdb", "denoiser"))
facts = json.loads(Path(folder, "schedule.json").read_text())
assert facts["modulation"] in ("none", "official"), "the other modulations need their own sampler"
decoded = decode_picture(Path(source).read_bytes(), source)
sys.stderr.writelines(f"{source}: {note}\n" for note in decoded.notes)
image, s, m = Image.fromarray(decoded.pixels), facts["scale"], facts["multiple"]
bottom, right = (max(2 * m, -(-side // m) * m) - side for side in (image.height, image.width))  # so that HR fits the network
padded = np.pad(np.asarray(image, np.float32) / 127.5 - 1, ((0, bottom), (0, right), (0, 0)), "symmetric")
_, condition = rrdb.run(None, {"lr": padded.transpose(2, 0, 1)[None]})
x = np.random.default_rng(0).standard_normal((1, 3, padded.shape[0] * s, padded.shape[1] * s), np.float32)
abar = np.array([*facts["alpha_bars"], 1.0], np.float32)  # abar[-1] = 1 is the clean image
times = np.linspace(facts["first_time"], 0, steps).round().astype(int)
for t, after in zip(times, [*times[1:], -1], strict=True):
    eps = denoiser.run(None, {"x": x, "t": np.array([t]), "condition": condition})[0]
    x_0 = ((x - (1 - abar[t]) ** 0.5 * eps) / abar[t] ** 0.5).clip(-1, 1)
    eps = (x - abar[t] ** 0.5 * x_0) / (1 - abar[t]) ** 0.5
    x = abar[after] ** 0.5 * x_0 + (1 - abar[after]) ** 0.5 * eps
large = np.asarray(image.resize((image.width * s, image.height * s), Image.Resampling.BICUBIC))
residual = x[0].transpose(1, 2, 0)[: large.shape[0], : large.shape[1]] / 2  # it is stretched twice
result = large + residual * 127.5
Image.fromarray(result.round().clip(0, 255).astype(np.uint8)).save(target)
