from __future__ import annotations

import pytest
import torch
from torch.func import functional_call

from afdcd.losses.discriminator import Discriminator, SelfAttention


@pytest.mark.parametrize(
    ("size", "scores"),
    [
        ((64, 64), (1, 1)),
        ((64, 128), (1, 5)),
        ((65, 97), (2, 4)),
        ((65, 64), (2, 1)),
        ((12, 24), (1, 1)),
        ((1, 1), (1, 1)),
    ],
)
def test_any_size_has_scores(size: tuple[int, int], scores: tuple[int, int]) -> None:
    assert Discriminator(3, 4)(torch.randn(2, 3, *size)).shape == (2, 1, *scores)


def test_gradients_are_the_numerical_ones() -> None:
    torch.manual_seed(0)
    net = Discriminator(3, 2).double().eval()
    for attention in net.attentions:
        attention.share.data.fill_(0.5)
    leaves = dict(net.named_parameters())
    logits = torch.randn(2, 3, 17, 33, dtype=torch.float64, requires_grad=True)

    def scores(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        return functional_call(net, dict(zip(leaves, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(scores, (logits, *leaves.values()), fast_mode=True)


def test_the_spectral_norm_of_a_trained_step_is_one() -> None:
    torch.manual_seed(0)
    net = Discriminator(3, 8)
    for _ in range(50):
        net(torch.randn(1, 3, 8, 8))
    for halving in net.halvings:
        largest = torch.linalg.matrix_norm(halving.weight.flatten(1), 2)
        assert largest.item() == pytest.approx(1, rel=0.01)


def test_attention_starts_as_the_identity_and_mixes_all_positions() -> None:
    torch.manual_seed(0)
    layer, features = SelfAttention(8), torch.randn(2, 8, 3, 4, requires_grad=True)
    assert layer(features).equal(features)
    layer.share.data.fill_(0.5)
    value = layer(features)
    query, key, look = (
        torch.einsum("dc,bchw->bdhw", m.weight[..., 0, 0], features) + m.bias[:, None, None]
        for m in (layer.query, layer.key, layer.value)
    )
    for y in range(3):
        for x in range(4):
            similar = torch.stack(
                [(query[1, :, y, x] * key[1, :, v, u]).sum() for v in range(3) for u in range(4)]
            )
            mixed = sum(s * look[1, :, i // 4, i % 4] for i, s in enumerate(similar.softmax(0)))
            torch.testing.assert_close(
                value[1, :, y, x], features[1, :, y, x] + 0.5 * mixed, rtol=1e-4, atol=1e-5
            )


def test_scores_are_those_of_the_layers_that_are_named() -> None:
    torch.manual_seed(0)
    net = Discriminator(3, 4).eval()
    logits = torch.randn(2, 3, 27, 14)
    assert [step.weight.shape[0] for step in net.halvings] == [4, 8, 16, 32]
    for attention in net.attentions:
        attention.share.data.fill_(0.5)

    def padded(x: torch.Tensor, down: int, right: int) -> torch.Tensor:
        """Zeros at the bottom and right."""
        wide = torch.cat([x, torch.zeros(*x.shape[:3], right)], 3)
        return torch.cat([wide, torch.zeros(*x.shape[:2], down, wide.shape[3])], 2)

    features = logits
    for step, halving in enumerate(net.halvings):
        features = padded(features, features.shape[2] % 2, features.shape[3] % 2)
        features = torch.conv2d(features, halving.weight, halving.bias, stride=2, padding=1)
        features = torch.where(features > 0, features, 0.1 * features)
        if step >= 2:
            features = net.attentions[step - 2](features)
    assert features.shape[2:] == (2, 1)
    expected = torch.conv2d(padded(features, 2, 3), net.score.weight, net.score.bias)
    torch.testing.assert_close(net(logits), expected)
