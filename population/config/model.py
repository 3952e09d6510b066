"""The architecture of the networks and the weights that they start from."""

from __future__ import annotations

from dataclasses import dataclass

from inarch.population.config.checks import check_types, require


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The architecture of every network in the population, and the weights that they start from."""

    architecture: str = "resnet20"
    """A built-in name (resnet20, mobilenetv2, vgg16, ...), torchvision:NAME, or module:function for your own model."""
    leaky: bool = False
    """CIFAR ResNets only: use leaky ReLU (slope 0.01) instead of ReLU."""
    weights: str | None = None
    """Trained weights that every network starts from. Either a safetensors file, as `inarch export` writes it, or the
    name of a torchvision weight set (DEFAULT, IMAGENET1K_V1), which torchvision downloads. None: random weights. A last
    linear layer of another width keeps its random weights. Do not move the file while the run may still be resumed.
    Weights trained on the same images with another seed have already learned some of this run's validation images."""

    def __post_init__(self) -> None:
        check_types(self, "model.")
        require(bool(self.architecture), "model.architecture", "name an architecture", self.architecture)
