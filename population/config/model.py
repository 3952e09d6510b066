"""Which architecture is trained."""

from __future__ import annotations

from dataclasses import dataclass

from inarch.population.config.checks import require


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which architecture every network of the population has."""

    architecture: str = "resnet20"
    """A built-in name (resnet20, mobilenetv2, vgg16, ...), torchvision:NAME, or module:function of your own."""
    leaky: bool = False
    """CIFAR ResNets only: leaky ReLU (slope 0.01) in place of ReLU."""
    weights: str | None = None
    """Trained weights that every network begins with: a safetensors file, as `inarch export` writes it, or
    torchvision's name of them (DEFAULT, IMAGENET1K_V1), which it fetches. A classifier of another width begins anew.
    A file must stay where it is while the run may be resumed. Weights that were trained on these images with another
    seed have learned images that are held out here. None: random ones."""

    def __post_init__(self) -> None:
        require(bool(self.architecture), "model.architecture", "name an architecture", self.architecture)
