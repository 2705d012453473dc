from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from deploy.rewrite import Exportable, adaptive_average, bin_matrix

SIZES = [(1, 1), (6, 6), (7, 13), (12, 5), (65, 129)]


@pytest.mark.parametrize("bins", [1, 2, 3, 6, 20, (2, 5), (None, 4), (3, None), None])
def test_pooling_is_what_pytorch_gives(bins: int | tuple[int | None, int | None] | None) -> None:
    for height, width in SIZES:
        x = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(height))
        if bins is None or isinstance(bins, int):
            wanted = F.adaptive_avg_pool2d(x, (bins, bins))  # type: ignore[arg-type, list-item]
        else:
            wanted = F.adaptive_avg_pool2d(x, bins)  # type: ignore[arg-type]
        torch.testing.assert_close(adaptive_average(x, bins), wanted, rtol=0, atol=1e-6)


def test_a_bin_is_a_mean_even_where_bins_outnumber_cells() -> None:
    matrix = bin_matrix(4, 6, torch.zeros(()))
    torch.testing.assert_close(matrix.sum(dim=0), torch.ones(6))


def test_modules_and_functions_are_caught_and_give_the_same() -> None:
    x = torch.randn(1, 3, 11, 7)
    network = nn.Sequential(nn.AdaptiveAvgPool2d((4, 3)), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1)).eval()
    wanted = network(x)
    with Exportable():
        program = torch.export.export(network, (x,))
    kinds = {str(node.target) for node in program.graph.nodes}
    assert "aten.matmul.default" in kinds and "aten.mean.dim" in kinds
    assert not any("adaptive" in kind or "dropout" in kind for kind in kinds)
    torch.testing.assert_close(program.module()(x), wanted)


def test_dropout_in_training_stays() -> None:
    x = torch.ones(1000)
    with Exportable():
        assert (F.dropout(x, 0.5, training=True) == 0).any()
        assert F.dropout(x, 0.5, training=False) is x
