"""The published compression rates: the share of the filters that fusion removes at each place of an architecture.

Source: Lin et al. 2021 (arXiv:2107.06916), tables and the authors' readme. The multiply-adds that the authors report
come from another counter and are up to 1.6 % higher than those of torch.utils.flop_counter.
"""

from __future__ import annotations

from inarch.population.errors import ConfigError

_RESNET56 = (
    *([0.7] * 2 + [0.5] * 3 + [0.3] * 2 + [0.4] + [0.8]),
    *([0.7] * 2 + [0.8] * 4 + [0.4] + [0.2] * 2),
    *([0.7] + [0.3] + [0.8] + [0.4] * 2 + [0.7] + [0.3] + [0.4] + [0.8]),
    *[0.0] * 3,
)
_RESNET110 = (
    *([0.2] + [0.0] + [0.2] + [0.3] + [0.7] * 2 + [0.1] + [0.3] * 2 + [0.4] + [0.7] * 2 + [0.5] + [0.1] + [0.3]),
    *([0.0] + [0.6] + [0.0]),
    *([0.2] + [0.5] + [0.0] + [0.7] * 2 + [0.5] + [0.7] * 2 + [0.4] * 2 + [0.0] + [0.3] + [0.1] + [0.5] + [0.1] * 3),
    *[0.7],
    *([0.1] * 2 + [0.3] * 5 + [0.5] + [0.7] + [0.2] + [0.4] + [0.7] * 5 + [0.5] + [0.1]),
    *([0.6] + [0.2] + [0.5]),
)


def _inception(rate: float) -> list[float]:
    """Rates of an inception module: convolutions that feed its output keep all filters."""
    return [0.0, rate, 0.0, rate, rate, 0.0, 0.0]


PRESETS: dict[str, tuple[str, tuple[float, ...]]] = {
    "vgg16-step-76.8": ("vgg16", (*[0.5] * 2, *[0.4] * 2, *[0.35] * 3, *[0.85] * 6)),
    "googlenet-step-70.1": (
        "googlenet",
        (0.0, *_inception(0.8), *_inception(0.9) * 3, *_inception(0.8) * 3, *_inception(0.9) * 2),
    ),
    "resnet56-step-55.9": ("resnet56", _RESNET56),
    "resnet110-step-66.6": ("resnet110", _RESNET110),
    "resnet50-step-76.7": ("resnet50", (0.0, *[0.8] * 10, *[0.7] * 6, *[0.6] * 10, *[0.4] * 6, *[0.3] * 4)),
    "resnet50-step-63.8": ("resnet50", (0.0, *[0.6] * 10, *[0.5] * 6, *[0.5] * 10, *[0.4] * 6, *[0.2] * 4)),
    "resnet50-step-45.3": ("resnet50", (0.0, *[0.35] * 10, *[0.3] * 6, *[0.4] * 10, *[0.3] * 6, *[0.1] * 4)),
    "resnet50-cos-63.0": ("resnet50", (0.0, *([0.5] * 10 + [0.5] * 6) * 2, *[0.25] * 3, 0.0)),
    "resnet50-cos-66.7": ("resnet50", (0.0, *([0.7] * 7 + [0.45] * 9) * 2, *[0.24] * 3, 0.0)),
    "resnet50-cos-75.1": ("resnet50", (0.0, *([0.43] * 7 + [0.73] * 9) * 2, *[0.45] * 3, 0.0)),
}
"""Architecture and rates of each preset. A name holds the architecture, the learning-rate schedule, and the percentage
of multiply-adds that fusion removes."""


def preset_rates(name: str, architecture: str) -> tuple[float, ...]:
    """Return the rates of a preset.

    Args:
        name: A key of PRESETS.
        architecture: Name of the architecture to fuse.

    Returns:
        One rate for each place of the architecture, each in [0, 1).

    Raises:
        ConfigError: The preset does not exist, or belongs to another architecture.
    """
    if name not in PRESETS:
        raise ConfigError(f"there is no fusion preset {name!r}; choose one of {', '.join(PRESETS)}")
    owner, rates = PRESETS[name]
    if owner != architecture:
        raise ConfigError(f"fusion preset {name} is for {owner}, got model.architecture {architecture!r}")
    return rates
