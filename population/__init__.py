"""Algorithms and values of inarch, without Ray: grafting, exchange, membership, training and the simulator."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
