"""Dynamic-coded filter fusion (DCFF): train a compact model directly. Its filters are mixtures of more filters."""

from inarch.population.fusion.fusing import LayerFusion, update_fusion
from inarch.population.fusion.layer import FusedConv2d, compact_state
from inarch.population.fusion.presets import PRESETS, preset_rates
from inarch.population.fusion.proxies import effective_filters, filter_distances, importance, log_proxies, normalized
from inarch.population.fusion.reference import (
    direct_importance,
    published_importance,
    published_proxies,
    published_temperature,
)
from inarch.population.fusion.temperature import target_filters, temperature_for

__all__ = [
    "PRESETS",
    "FusedConv2d",
    "LayerFusion",
    "compact_state",
    "direct_importance",
    "effective_filters",
    "filter_distances",
    "importance",
    "log_proxies",
    "normalized",
    "preset_rates",
    "published_importance",
    "published_proxies",
    "published_temperature",
    "target_filters",
    "temperature_for",
    "update_fusion",
]
