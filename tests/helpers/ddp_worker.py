"""Started by torchrun in test_parallel.py: trains stage one only, through the ordinary entry point."""

import sys
from pathlib import Path

import torch

from samdiff import open_store
from samdiff.model.config import load_config
from samdiff.model.training.distributed import join
from samdiff.model.training.run import train

if __name__ == "__main__":
    torch.set_num_threads(1)
    with join(torch.device("cpu")) as ranks:
        store = open_store(sys.argv[1])
        train([store], Path(sys.argv[2]), load_config("tiny", sets=sys.argv[3:], scale=store.scale), ranks.device, ranks=ranks)
