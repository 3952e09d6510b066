from .loading import load_splits, memory_splits
from .memory_batches import Batch, Batches, EpochSpec, MemoryBatches
from .preprocessing import preprocess
from .reading.dataset_items import from_dataset
from .reading.decoding import as_shown, decode
from .reading.encoded_images import UnreadableImages
from .reading.images import ImageSet, image_set, read_arrow, write_arrow
from .reading.sources import holds_parts, open_images
from .reading.user_data import is_path, parts_of, to_images
from .report import DataReport, report_from
from .splits import MemorySplits, Splits, StreamSplits
from .streaming_batches import StreamBatches

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
