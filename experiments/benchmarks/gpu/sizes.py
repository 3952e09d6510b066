"""What the benchmark on a GPU trains, at full size and at a size for tests without a GPU."""

from __future__ import annotations

from dataclasses import dataclass

RESNET50 = "torchvision:resnet50"
SPEED_NETWORK = "inarch.experiments.benchmarks.gpu.speed_network:speed_network"


@dataclass(frozen=True, kw_only=True)
class Training:
    """A network, and the random images that it trains on."""

    name: str
    """What the rows call it."""
    architecture: str
    batch_size: int
    images: int
    """Training images of an epoch. An interval is an epoch."""
    image_size: int
    """Height and width in pixels."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of the whole benchmark."""

    grafts: tuple[str, ...]
    """Architectures whose grafts are measured."""
    judged: str
    """Architecture whose graft has targets."""
    overheads: tuple[Training, ...]
    """Networks that train with grafting, without, and in a plain loop."""
    compiled: Training
    """Network that is compiled in each mode."""
    speed: Training
    """Network of a speed run, beside a plain loop in half precision."""
    shared: Training
    """Network that trains alone on the GPU and several times at once."""
    sharing: int
    """Number of networks that share the GPU."""
    epochs: int
    """Counted epochs of each measurement. One more comes before them."""


FULL = Sizes(
    grafts=(RESNET50, "resnet20"),
    judged=RESNET50,
    overheads=(
        Training(name="ResNet-20, batch 128", architecture="resnet20", batch_size=128, images=12_800, image_size=32),
        Training(name="ResNet-20, batch 1,024", architecture="resnet20", batch_size=1024, images=51_200, image_size=32),
        Training(name="ResNet-50 at 224", architecture=RESNET50, batch_size=128, images=2_560, image_size=224),
    ),
    compiled=Training(name="ResNet-20", architecture="resnet20", batch_size=128, images=12_800, image_size=32),
    speed=Training(name="speed network", architecture=SPEED_NETWORK, batch_size=1024, images=51_200, image_size=32),
    shared=Training(name="ResNet-20", architecture="resnet20", batch_size=128, images=25_600, image_size=32),
    sharing=4,
    epochs=2,
)
"""Sizes of `inarch bench gpu`."""

TINY = Sizes(
    grafts=("resnet8",),
    judged="resnet8",
    overheads=(Training(name="ResNet-8", architecture="resnet8", batch_size=16, images=32, image_size=8),),
    compiled=Training(name="ResNet-8", architecture="resnet8", batch_size=16, images=32, image_size=8),
    speed=Training(name="speed network", architecture=SPEED_NETWORK, batch_size=16, images=32, image_size=32),
    shared=Training(name="ResNet-8", architecture="resnet8", batch_size=16, images=64, image_size=32),
    sharing=2,
    epochs=1,
)
"""Sizes with which the tests run the benchmark on a CPU."""
