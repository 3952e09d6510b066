"""Dynamic-coded filter fusion: compact networks trained directly, their filters mixtures of more filters."""

from inarch.population.fusion.fusing import LayerFusion, update_fusion
from inarch.population.fusion.layer import FusedConv2d, compact_state
from inarch.population.fusion.presets import PRESETS, preset_rates
from inarch.population.fusion.proxies import (
    direct_importance,
    effective_filters,
    filter_distances,
    importance,
    log_proxies,
    normalized,
    published_importance,
    published_proxies,
)
from inarch.population.fusion.temperature import published_temperature, temperature_for, wanted_filters

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
    "temperature_for",
    "update_fusion",
    "wanted_filters",
]
