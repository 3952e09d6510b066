"""Data sets by name or path, their splits, and batches on a network's device."""

from population.data.batches import Batch, Batches, MemoryBatches, Pass
from population.data.dataset_items import from_dataset
from population.data.encoded import UnreadableImages
from population.data.handed_in import is_path, parts_of, to_images
from population.data.images import ImageSet, image_set, read_arrow, write_arrow
from population.data.loading import load_splits, memory_splits
from population.data.pictures import as_shown, decode
from population.data.preprocessing import preprocess
from population.data.report import DataReport, report_from
from population.data.sources import holds_parts, open_images
from population.data.splits import MemorySplits, Splits, StreamSplits
from population.data.streams import StreamBatches

__all__ = [
    "Batch",
    "Batches",
    "DataReport",
    "ImageSet",
    "MemoryBatches",
    "MemorySplits",
    "Pass",
    "Splits",
    "StreamBatches",
    "StreamSplits",
    "UnreadableImages",
    "as_shown",
    "decode",
    "from_dataset",
    "holds_parts",
    "image_set",
    "is_path",
    "load_splits",
    "memory_splits",
    "open_images",
    "parts_of",
    "preprocess",
    "read_arrow",
    "report_from",
    "to_images",
    "write_arrow",
]
