"""Train populations on Ray: an actor for each network, a coordinator, and the driver's handle on a run."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
