"""The time of a training step of stage two with each structure prior, compared with `none`.

    python benchmarks/priors.py --threads 1 [--preset tiny] [--rounds 5] [--device cuda]

Random data; rounds alternate over the settings, and medians and their ratio to `none` are printed. On the CPU: CPU seconds of the process, which are
fair on a busy machine with one thread.
"""

import argparse
import statistics
import time
from collections import defaultdict

import torch
from train_step import random_data

from samdiff.model.config import load_config
from samdiff.model.networks.build import build_rrdb, build_unet
from samdiff.model.training.optimizer import Guard, make_optimiser, update
from samdiff.model.training.tasks import DiffusionTask
from samdiff.runtime import pick_device, setup_process

NONE = "diffusion.modulation=none"
SETTINGS = {
    "none": [NONE],
    "official": ["diffusion.modulation=official"],
    "variance by masks": [NONE, "diffusion.scale_from=masks"],
    "variance by blur": [NONE, "diffusion.scale_from=blur"],
    "variance by crop": [NONE, "diffusion.scale_from=crop"],
    "region mean loss": [NONE, "loss.regions=mean"],
    "boundary loss": [NONE, "loss.regions=boundary"],
    "auxiliary boundary": [NONE, "loss.auxiliary=boundary"],
    "auxiliary e": [NONE, "loss.auxiliary=e"],
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, help="samples per step; the default is that of the preset")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    setup_process(arguments.threads)
    device = pick_device(arguments.device)
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    tasks, optimisers, seconds = {}, {}, defaultdict(list)
    for name, sets in SETTINGS.items():
        config = load_config(arguments.preset, sets=sets)
        data = random_data(config.train.patch, config.scale)
        tasks[name] = DiffusionTask(data, build_unet(config), build_rrdb(config), config=config, device=device)
        optimisers[name] = make_optimiser(tasks[name].network, config.train), Guard.new("off", device)
    for number in range(arguments.rounds + 1):  # the first is a warm-up
        for name, task in tasks.items():
            size = arguments.batch or task.config.train.batch
            batch = {key: value.to(device) for key, value in task.make_batch(number * size, size).items()}
            start = clock()
            loss = task.loss(batch)
            loss.backward()
            optimiser, guard = optimisers[name]
            update(optimiser, guard, loss.detach(), settings=task.config.train)
            optimiser.zero_grad(set_to_none=True)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if number:
                seconds[name].append(clock() - start)
    plain = statistics.median(seconds["none"])
    print(f"{arguments.preset}, {device}, {torch.get_num_threads()} threads, median of {arguments.rounds} steps")
    for name, values in seconds.items():
        print(f"{name:<20}{statistics.median(values) * 1000:>8.0f} ms{statistics.median(values) / plain:>7.3f}")


if __name__ == "__main__":
    main()
