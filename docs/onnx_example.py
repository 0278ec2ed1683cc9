"""Sample an image with onnxruntime, without PyTorch: onnx_example.py FOLDER LR.png SR.png [STEPS]; `samdiff export-model` wrote FOLDER."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

from samdiff.pipeline.images.decode import decode_rgb

folder, source, target, steps = *sys.argv[1:4], int((*sys.argv, "25")[4])
rrdb, denoiser = (onnxruntime.InferenceSession(f"{folder}/{name}.onnx") for name in ("rrdb", "denoiser"))
facts = json.loads(Path(folder, "schedule.json").read_text())
assert facts["modulation"] in ("none", "official"), "the other modulations need their own sampler"
decoded = decode_rgb(Path(source).read_bytes(), source)
sys.stderr.writelines(f"{source}: {note}\n" for note in decoded.notes)
image, s, m = Image.fromarray(decoded.pixels), facts["scale"], facts["multiple"]
bottom, right = (max(2 * m, -(-side // m) * m) - side for side in (image.height, image.width))  # so that HR fits the network
padded = np.pad(np.asarray(image, np.float32) / 127.5 - 1, ((0, bottom), (0, right), (0, 0)), "symmetric")
regressed, condition = rrdb.run(None, {"lr": padded.transpose(2, 0, 1)[None]})
x = np.random.default_rng(0).standard_normal(regressed.shape, np.float32)
if facts["process"] == "flow":  # one step: the prediction at time 0 is the residual
    x = denoiser.run(None, {"x": facts["flow_sigma"] * x, "t": np.array([0]), "condition": condition})[0]
else:  # DDIM
    abar = np.array([*facts["alpha_bars"], 1.0], np.float32)  # abar[-1] = 1 is the clean image
    times = np.linspace(facts["first_time"], 0, steps).round().astype(int)
    for t, after in zip(times, [*times[1:], -1], strict=True):
        eps = denoiser.run(None, {"x": x, "t": np.array([t]), "condition": condition})[0]
        x_0 = ((x - (1 - abar[t]) ** 0.5 * eps) / abar[t] ** 0.5).clip(-1, 1)
        eps = (x - abar[t] ** 0.5 * x_0) / (1 - abar[t]) ** 0.5
        x = abar[after] ** 0.5 * x_0 + (1 - abar[after]) ** 0.5 * eps
height, width = image.height * s, image.width * s
bicubic = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC)) / 127.5 - 1
base = regressed[0].transpose(1, 2, 0)[:height, :width].clip(-1, 1) if facts["base"] == "rrdb" else bicubic
result = (base + x[0].transpose(1, 2, 0)[:height, :width] / facts["rescale"] + 1) * 127.5
Image.fromarray(result.round().clip(0, 255).astype(np.uint8)).save(target)
