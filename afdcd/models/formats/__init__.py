"""Names and conventions of checkpoints that other projects write; no torch import here.

A format is a module with `translate(tensors)`, which gives the tensors under a Segmenter's names, and the
settings that the file and the format's habits fix: the network, and the normalisation its weights expect.
"""

from __future__ import annotations

FORMATS: dict[str, str] = {
    "afdcd": "this project's own: a folder of models/trained, or a state dict of a Segmenter",
    "cirkd": "the .pth files that CIRKD and Af-DCD released: DeepLabV3 on dilated ResNets",
    "smp": "segmentation-models-pytorch: DeepLabV3 on ResNets",
    "torchvision": "torchvision.models.segmentation: deeplabv3 and fcn on ResNets",
}
"""Format -> what it is; those but the first are modules of this package."""
