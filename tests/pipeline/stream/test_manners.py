"""Data sets, streams and loaders behave as Python and PyTorch expect: one epoch per iteration, indices, lengths, epochs, workers, samplers."""

import copy
import multiprocessing
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler, Subset

import samdiff
from samdiff import ShardDataset, ShardLoader, ShardStream
from samdiff.errors import ConfigError, IndexKindError, PositionError
from samdiff.pipeline.stream.dataset import e_sam
from samdiff.pipeline.stream.passes import PassCounter

from ...helpers.stores import make_store

N = 10


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("manners") / "a.zarr", n=N)


@pytest.fixture
def data(path):
    return ShardDataset(path, patch=12, seed=4)


def positions(batches) -> list[int]:
    return [int(p) for batch in batches for p in np.atleast_1d(np.asarray(batch["position"]))]


def test_iteration_is_one_epoch(data):
    """`for sample in data` ends, and again gives the same samples: those of data[0] … data[len - 1]."""
    samples = list(data)
    assert len(samples) == len(data) == N
    assert positions(data) == positions(samples) == list(range(N))
    for k, sample in enumerate(samples):
        np.testing.assert_array_equal(sample["hr"], data[k]["hr"])


def test_indices_as_in_a_list(data):
    """-1 is the last one; numpy's and PyTorch's integers count; positions beyond the epoch are in the next ones."""
    for index in (-1, -N, np.int32(-2), torch.tensor(3), 4 * N + 1):
        expected = data.batch(int(index) % N if index < 0 else int(index), 1)
        for name, value in data[index].items():
            np.testing.assert_array_equal(value, expected[name][0], err_msg=name)
    with pytest.raises(PositionError, match=f"index -11: expected -10 to .* the length is {N}"):
        data[-N - 1]
    with pytest.raises(IndexError):
        data[-N - 1]
    with pytest.raises(PositionError, match="of at least 0, got -2"):
        data.batch(-2, 4)
    for wrong, kind in ((slice(0, 3), "slice"), (1.5, "float"), ("hr", "str"), (None, "NoneType")):
        with pytest.raises(TypeError, match=rf"one integer as the index, got a {kind}; `batch\(first, size\)`"):
            data[wrong]


def test_set_epoch_changes_order_and_crops(data):
    """Each epoch is another; every tile comes once in each; the epoch travels with a pickle, which is then independent."""
    epochs = []
    for epoch in (0, 1, 5):
        data.set_epoch(epoch)
        assert positions(data) == list(range(epoch * N, (epoch + 1) * N))
        assert int(data[-1]["position"]) == (epoch + 1) * N - 1
        assert sorted(int(sample["hr"][0, 0, 0]) for sample in data) == list(range(N))
        epochs.append(np.stack([sample["hr"] for sample in data]))
    assert (epochs[0] != epochs[1]).any()
    for other in (pickle.loads(pickle.dumps(data)), copy.deepcopy(data)):  # noqa: S301
        assert other.epoch == 5
        other.set_epoch(1)
        assert data.epoch == 5
    with pytest.raises(ConfigError, match=r"epoch: expected 0 to 2\^30 - 1, got -1"):
        data.set_epoch(-1)


def test_a_plain_loop_is_told_of_set_epoch(data, caplog):
    """The second pass over the same crops is one warning, with `set_epoch` there is none."""
    loader = DataLoader(data, batch_size=4, shuffle=True)
    for epoch in range(3):
        data.set_epoch(epoch)
        list(loader)
    assert not caplog.records
    list(loader), list(loader)
    (record,) = caplog.records
    assert "call set_epoch before each epoch" in record.getMessage()


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_persistent_workers_see_the_epoch(data, start):
    """Workers that run already read the epoch that the main process sets."""
    context = multiprocessing.get_context(start)
    loader = DataLoader(
        data, batch_size=4, num_workers=1, persistent_workers=True, multiprocessing_context=context, timeout=120
    )
    for epoch in (0, 3):
        data.set_epoch(epoch)
        batches = list(loader)
        assert positions(batches) == list(range(epoch * N, (epoch + 1) * N))
        np.testing.assert_array_equal(torch.cat([batch["hr"] for batch in batches]), data.batch(epoch * N, N)["hr"])


def test_samplers_and_subsets_of_pytorch(data):
    """`DistributedSampler`: two ranks share an epoch, the next epoch has other crops. `Subset` and `random_split` take indices."""
    seen = []
    for epoch in range(2):
        data.set_epoch(epoch)
        parts = []
        for rank in range(2):
            sampler = DistributedSampler(data, num_replicas=2, rank=rank, shuffle=True, seed=1)
            sampler.set_epoch(epoch)
            parts += positions(DataLoader(data, batch_size=2, sampler=sampler))
        assert sorted(parts) == list(range(epoch * N, (epoch + 1) * N))
        seen.append(parts)
    assert [p - N for p in seen[1]] != seen[0]
    data.set_epoch(0)
    assert positions(DataLoader(Subset(data, [7, 2]), batch_size=2)) == [7, 2]


@pytest.mark.parametrize(("workers", "persistent"), [(0, False), (2, False), (2, True)])
def test_a_stream_resumes_where_its_last_pass_ended(data, workers, persistent):
    """Two epochs are other samples, the same for any workers; `set_epoch` chooses one; `len` counts batches."""
    stream = ShardStream(data, 3, start=2)
    loader = DataLoader(stream, batch_size=None, num_workers=workers, persistent_workers=persistent, timeout=60 * (workers > 0))
    assert len(stream) == len(loader) == 3
    assert positions(loader) == list(range(2, 11))
    assert positions(loader) == list(range(11, 20))
    stream.set_epoch(5)
    assert positions(loader) == list(range(2 + 45, 2 + 54))
    assert positions(loader) == list(range(2 + 54, 2 + 63))
    stream.set_epoch(0)
    assert positions(loader) == list(range(2, 11))


def test_another_worker_writes_while_this_one_reads():
    """After `set_epoch(0)`, the number was -1 if the other worker's write came between two reads of the word."""
    first, second = PassCounter(), PassCounter()
    assert first.begin(77) == 0

    class Changing:
        """The word before the other worker's write, then after it."""

        def __init__(self):
            self.words = [0, first._word.cells[0]]

        def __getitem__(self, place):
            return self.words.pop(0) if len(self.words) > 1 else self.words[0]

        def __setitem__(self, place, word):
            self.words = [word]

    second._word = SimpleNamespace(cells=Changing())
    assert second.begin(77) == 0


def test_workers_of_one_pass_agree_on_its_number():
    """However they interleave: at once, one after the other, a late one; a persistent worker's next pass is the next number."""
    counter = PassCounter()
    workers = [copy.copy(counter) for _ in range(3)]  # they share the word, as forked workers do
    assert [worker.begin(77) for worker in workers] == [0, 0, 0]
    assert [worker.begin(77) for worker in workers] == [1, 1, 1]
    word = counter._word.cells[0]
    late = [copy.copy(counter) for _ in range(2)]
    numbers = []
    for worker in late:
        counter._word.cells[0] = word  # both read before either has written
        numbers.append(worker.begin(78))
    assert numbers == [2, 2]
    assert counter.begin() == 3
    counter.restart(9)
    assert [copy.copy(counter).begin(78) for _ in range(2)] == [9, 9]


def test_loader_passes_and_length(data):
    """With steps: a length, and the next iteration goes on. Without: no length, said so in a `TypeError`, and `list`'s hint does not fail."""
    loader = ShardLoader(data, 3, steps=2, start=1, workers=2)
    assert len(loader) == 2
    assert positions(loader) == [1, 2, 3, 4, 5, 6]
    assert positions(loader) == [7, 8, 9, 10, 11, 12]
    loader.set_epoch(0)
    assert positions(loader) == [1, 2, 3, 4, 5, 6]
    two = [ShardLoader(data, 2, steps=1, rank=rank, ranks=2, workers=0) for rank in range(2)]
    assert [positions(loader) for _ in range(2) for loader in two] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    endless = ShardLoader(data, 3)
    with pytest.raises(IndexKindError, match=r"no length; give steps=len\(data\) // batch") as refused:
        len(endless)
    assert isinstance(refused.value, TypeError)
    with pytest.raises(ConfigError, match="goes through all epochs"):
        endless.set_epoch(1)
    for _ in range(2):
        assert positions([next(iter(endless))]) == [0, 1, 2]
    assert "batch 3, no end, start 0, rank 0 of 1" in repr(endless)


def test_loaders_take_a_path(path, data):
    """A path, a store or several are a data set of whole tiles; anything else is refused by name."""
    store = samdiff.open_store(path)
    whole = ShardDataset(path).batch(0, 4)["hr"]
    for source in (str(path), path, store, [path]):
        np.testing.assert_array_equal(next(iter(ShardLoader(source, 4, workers=0)))["hr"], whole)
        np.testing.assert_array_equal(next(iter(ShardStream(source, 4)))["hr"], whole)
    for wrong in (8, [], None):
        with pytest.raises(ConfigError, match="expected a ShardDataset, a store or a store's path, got"):
            ShardLoader(wrong, 4)
    with pytest.raises(ConfigError, match="at most the 10 samples of an epoch over all ranks, got 12"):
        ShardStream(data, 6, ranks=2)


@pytest.mark.parametrize(("choice", "mean"), [(True, "mask"), ("image", "image")])
def test_samples_with_e_sam(path, data, choice, mean):
    """`e_sam` in each sample is what the lookup on the training device gives, in workers too."""
    with_e = ShardDataset(path, patch=12, seed=4, e_sam=choice)
    table, offset = (torch.from_numpy(values) for values in data.codes(mean))
    batch = {name: torch.from_numpy(value) for name, value in with_e.batch(0, N).items()}
    expected = e_sam(batch["labels"], batch["image"], table, offset)[:, 0]
    assert batch["e_sam"].dtype == torch.float32
    assert batch["e_sam"].abs().sum() > 0
    torch.testing.assert_close(batch["e_sam"], expected, rtol=0, atol=0)
    (loaded,) = DataLoader(with_e, batch_size=N, num_workers=1)
    torch.testing.assert_close(loaded["e_sam"], expected, rtol=0, atol=0)
    assert "e_sam" not in data[0]
    with pytest.raises(ConfigError, match="e_sam: expected True, False, 'mask' or 'image', got 'median'"):
        ShardDataset(path, e_sam="median")


def test_repr_for_people_and_notebooks(data):
    """One line with counts and sizes; HTML with small images and escaped text; what is damaged is said in it."""
    assert "x4, 10 crops of 12 px per epoch, seed 4, epoch 0)" in repr(data)
    page = data._repr_html_()
    assert page.count("data:image/png;base64,") == 12
    assert "10 crops of 12 x 12 HR pixels" in page
