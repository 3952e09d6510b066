"""Exchange rules: how networks use each other's snapshots. They are grafting and the rules that it is compared with."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
