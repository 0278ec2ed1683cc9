"""Padding merged into fewer tokens."""

import pytest
import torch

from samdiff.pipeline.fast_grid.padding import find_padding

CPU = torch.device("cpu")


@pytest.mark.parametrize(("used", "kept"), [((31, 64), (32, 64)), ((64, 43), (64, 44)), ((1, 64), (2, 64))])
def test_merged_tokens_are_means_of_squares(used, kept):
    """Those of the image come first; each of the others stands for as many tokens as its logit says, all together for all."""
    padding = find_padding(64, 64, used_rows=used[0], used_columns=used[1], device=CPU)
    assert padding is not None
    assert (padding.kept_rows, padding.kept_columns) == kept
    tokens = torch.randn(4096, 3, generator=torch.Generator().manual_seed(0))
    merged, grid = padding.merge(tokens), tokens.view(64, 64, 3)
    assert len(merged) == padding.n_kept + len(padding.log_count)
    torch.testing.assert_close(merged[: padding.n_kept], grid[: kept[0], : kept[1]].flatten(0, 1))
    counts = padding.log_count.exp()
    assert float(counts.sum()) == pytest.approx(4096 - padding.n_kept)
    torch.testing.assert_close(
        (merged[padding.n_kept :] * counts[:, None]).sum(0) + grid[: kept[0], : kept[1]].sum((0, 1)), tokens.sum(0)
    )
    rest = grid[kept[0] :] if kept[0] < 64 else grid[:, kept[1] :]
    torch.testing.assert_close(merged[padding.n_kept], rest[:4, :4].mean((0, 1)))


def test_attention_to_equal_tokens_is_unchanged():
    """Where the padding is the same token everywhere, the weighted sum over merged tokens is the sum over all."""
    padding = find_padding(64, 64, used_rows=20, used_columns=64, device=CPU)
    tokens = torch.randn(64, 64, 8, generator=torch.Generator().manual_seed(1))
    tokens[20:] = tokens[20, 0].clone()
    tokens, query = tokens.flatten(0, 1), torch.randn(8, generator=torch.Generator().manual_seed(2))
    merged = padding.merge(tokens)
    logits = merged @ query
    logits[padding.n_kept :] += padding.log_count
    torch.testing.assert_close(logits.softmax(0) @ merged, (tokens @ query).softmax(0) @ tokens, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("used", [(64, 64), (64, 60), (62, 64)])
def test_little_padding_is_not_merged(used):
    assert find_padding(64, 64, used_rows=used[0], used_columns=used[1], device=CPU) is None
