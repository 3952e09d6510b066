"""Load streamed images: their order, the processes that decode them, and the cache of decoded images."""
