"""Data sets by name or path, their splits, and batches on a network's device."""

from inarch.population.data.batches import Batch, Batches, MemoryBatches, Pass
from inarch.population.data.dataset_items import from_dataset
from inarch.population.data.encoded import UnreadableImages
from inarch.population.data.handed_in import is_path, parts_of, to_images
from inarch.population.data.images import ImageSet, image_set, read_arrow, write_arrow
from inarch.population.data.loading import load_splits, memory_splits
from inarch.population.data.pictures import as_shown, decode
from inarch.population.data.preprocessing import preprocess
from inarch.population.data.report import DataReport, report_from
from inarch.population.data.sources import holds_parts, open_images
from inarch.population.data.splits import MemorySplits, Splits, StreamSplits
from inarch.population.data.streams import StreamBatches

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
