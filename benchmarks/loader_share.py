"""How long a training step waits for its batch: the diffusion stage of a preset, on the CPU, with the loader that `samdiff train` uses.

    python benchmarks/loader_share.py tiles.zarr [--preset small] [--steps 8]

Two shares are printed: the time the loop waits for the next batch, and (because the loader's threads take turns with the step's on a CPU) the time that
making the batch takes on one thread alone, as if nothing ran beside it. Both as a share of the whole step.
"""

import argparse
import time

import torch

from samdiff import ShardDataset, ShardLoader
from samdiff.model.config import load_config
from samdiff.model.networks.build import build_rrdb, build_unet
from samdiff.model.training.tasks import DiffusionTask
from samdiff.runtime import setup_process


def main() -> None:
    """Train a few steps from random weights and print the shares."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("store")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    setup_process(threads=arguments.threads)
    config = load_config(arguments.preset)
    data = ShardDataset(arguments.store, config.train.patch)
    task = DiffusionTask(data, build_unet(config), build_rrdb(config), config=config, device=torch.device("cpu"))
    optimiser = torch.optim.Adam(task.network.parameters(), 1e-4)
    batch_size, waited, made = config.train.batch, [], []
    for index in range(arguments.steps):
        start = time.perf_counter()
        task.make_batch(index * batch_size, batch_size)
        made.append(time.perf_counter() - start)
    batches = iter(ShardLoader(task.make_batch, batch_size, workers=config.train.num_workers))
    loss = task.loss(next(batches))  # warm-up
    begin = time.perf_counter()
    for _ in range(arguments.steps):
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        start = time.perf_counter()
        batch = next(batches)
        waited.append(time.perf_counter() - start)
        loss = task.loss(batch)
    step = (time.perf_counter() - begin) / arguments.steps
    wait, alone = sum(waited) / arguments.steps, min(made)
    print(
        f"preset {arguments.preset}: batch {batch_size}, patch {config.train.patch}, {arguments.threads} threads, {arguments.steps} steps"
    )
    print(f"step {step:.3f} s; waiting for the batch {1000 * wait:.2f} ms = {100 * wait / step:.2f} %")
    print(f"making a batch alone {1000 * alone:.1f} ms = {100 * alone / step:.2f} % of a step on one thread")


if __name__ == "__main__":
    main()
