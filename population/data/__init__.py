"""Read data sets by name or path, split them, and deliver batches on a network's device."""

from inarch.population.data.loading import load_splits, memory_splits
from inarch.population.data.memory_batches import Batch, Batches, EpochSpec, MemoryBatches
from inarch.population.data.preprocessing import preprocess
from inarch.population.data.reading.dataset_items import from_dataset
from inarch.population.data.reading.decoding import as_shown, decode
from inarch.population.data.reading.encoded_images import UnreadableImages
from inarch.population.data.reading.images import ImageSet, image_set, read_arrow, write_arrow
from inarch.population.data.reading.sources import holds_parts, open_images
from inarch.population.data.reading.user_data import is_path, parts_of, to_images
from inarch.population.data.report import DataReport, report_from
from inarch.population.data.splits import MemorySplits, Splits, StreamSplits
from inarch.population.data.streaming_batches import StreamBatches

__all__ = [
    "Batch",
    "Batches",
    "DataReport",
    "EpochSpec",
    "ImageSet",
    "MemoryBatches",
    "MemorySplits",
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
