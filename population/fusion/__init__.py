"""Dynamic-coded filter fusion (DCFF): train a compact model directly. Its filters are mixtures of more filters."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
