from .fusing import LayerFusion, update_fusion
from .layer import FusedConv2d, compact_state
from .presets import PRESETS, preset_rates
from .proxies import effective_filters, filter_distances, importance, log_proxies, normalized
from .reference import direct_importance, published_importance, published_proxies, published_temperature
from .temperature import target_filters, temperature_for

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
