"""Data sets by name or path, their splits, and batches on a network's device."""

from population.data.batches import Batch, Batches, MemoryBatches, Pass
from population.data.images import ImageSet, image_set, read_arrow, write_arrow
from population.data.sources import from_dataset, open_images
from population.data.splits import MemorySplits, Splits, StreamSplits, load_splits, memory_splits
from population.data.streams import StreamBatches

__all__ = [
    "Batch",
    "Batches",
    "ImageSet",
    "MemoryBatches",
    "MemorySplits",
    "Pass",
    "Splits",
    "StreamBatches",
    "StreamSplits",
    "from_dataset",
    "image_set",
    "load_splits",
    "memory_splits",
    "open_images",
    "read_arrow",
    "write_arrow",
]
