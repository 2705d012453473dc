"""The pieces that heads share."""

from __future__ import annotations

from torch import Tensor, nn

from afdcd.errors import UserError


def conv_norm_relu(inputs: int, outputs: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    """A convolution that keeps the map's size, batch normalisation and ReLU."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def check_statistics(module: nn.Module, x: Tensor) -> None:
    """Refuse to train batch normalisation on globally pooled features of a single image.

    Raises:
        UserError: one image a step in training mode, without synchronised statistics over ranks.
    """
    if not module.training or x.shape[0] > 1:
        return
    if not any(isinstance(child, nn.SyncBatchNorm) for child in module.modules()):
        raise UserError(
            "the head's global pooling cannot be trained on one image a step, its batch normalisation needs "
            "two or more: raise batch_size or micro_batch, or use fewer ranks"
        )


class FCNHead(nn.Module):
    """Training-only auxiliary classifier: 3x3 to a quarter of the channels, BN, ReLU, dropout, 1x1.

    Source: PSPNet, Zhao et al. 2017, section 3.3 (the auxiliary loss); the block is the one of FCN heads.
    """

    def __init__(self, inputs: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        width = max(1, inputs // 4)
        self.features = conv_norm_relu(inputs, width, 3)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K, h, w) of a stage (B, C, h, w)."""
        logits: Tensor = self.classifier(self.dropout(self.features(x)))
        return logits
