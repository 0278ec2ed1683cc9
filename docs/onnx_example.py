"""A picture sampled with onnxruntime alone (DDIM): python onnx_example.py FOLDER LR.png SR.png [STEPS]

FOLDER is what `samdiff export-model` wrote. Needs onnxruntime, numpy and Pillow; for modulations `none` and `official`.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

folder, source, target, steps = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int((*sys.argv, "25")[4])
facts = json.loads((folder / "schedule.json").read_text())
assert facts["modulation"] in ("none", "official"), "the others need their own sampler"
rrdb, denoiser = (onnxruntime.InferenceSession(str(folder / name)) for name in ("rrdb.onnx", "denoiser.onnx"))

image, s, m = Image.open(source).convert("RGB"), facts["scale"], facts["multiple"]
side = [max(2 * m, -(-n // m) * m) for n in image.size]  # LR padded so that HR fits the network
padded = np.pad(np.asarray(image), ((0, side[1] - image.height), (0, side[0] - image.width), (0, 0)), "symmetric")
lr = (padded.astype(np.float32) / 127.5 - 1).transpose(2, 0, 1)[None]
_, condition = rrdb.run(None, {"lr": lr})
x = np.random.default_rng(0).standard_normal((1, 3, lr.shape[2] * s, lr.shape[3] * s), dtype=np.float32)
abar = np.array([*facts["alpha_bars"], 1.0], np.float32)  # abar[-1] = 1 is the clean picture
times = np.linspace(len(abar) - 2, 0, steps).round().astype(int)
for t, after in zip(times, [*times[1:], -1], strict=True):
    eps = denoiser.run(None, {"x": x, "t": np.array([t]), "condition": condition})[0]
    x_0 = ((x - (1 - abar[t]) ** 0.5 * eps) / abar[t] ** 0.5).clip(-1, 1)
    eps = (x - abar[t] ** 0.5 * x_0) / (1 - abar[t]) ** 0.5
    x = abar[after] ** 0.5 * x_0 + (1 - abar[after]) ** 0.5 * eps

large = Image.fromarray(padded).resize((side[0] * s, side[1] * s), Image.Resampling.BICUBIC)
result = np.asarray(large) + x[0].transpose(1, 2, 0) / 2 * 127.5  # the residual is stretched twice, in [-1, 1]
Image.fromarray(result.round().clip(0, 255).astype(np.uint8)[: image.height * s, : image.width * s]).save(target)
