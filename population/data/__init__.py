"""Read data sets by name or path, split them, and deliver batches on a network's device."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
