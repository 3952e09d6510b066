"""Prepare a picture for a trained network, by the report of its training data."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from inarch.population.data.reading.decoding import as_shown, center, margin, resized, with_channels
from inarch.population.data.report import DataReport
from inarch.population.errors import DataError


def preprocess(picture: Image.Image, report: DataReport, *, name: str) -> Tensor:
    """Decode, scale and normalize one picture as the training images were.

    Args:
        picture: Of any of Pillow's modes.
        report: Of the run's data.
        name: File, for errors.

    Returns:
        Shape (channels, height, width), float32.

    Raises:
        DataError: the network was trained on values that are no pixels, or the picture needs a size and the run gives
            none.
    """
    if not report.is_pixels:
        raise DataError("the run was trained on arrays whose values are no pixels from 0 to 1 or 255")
    channels, height, width = report.image_shape
    shown = with_channels(as_shown(picture, name), "gray" if channels == 1 else "rgb")
    if report.resize == "margin":
        shown = center(resized(shown, margin(height)), height)
    elif report.resize == "shorter side":
        shown = resized(shown, height)
    elif report.resize == "whole":
        shown = resized(shown, (height, width))
    elif shown.size != (width, height):
        raise DataError(
            f"{name} has {shown.width}x{shown.height} pixels, the training images {width}x{height}; scale it to that"
        )
    values = np.asarray(shown, dtype=np.float32).reshape(height, width, channels).transpose(2, 0, 1) / 255.0
    mean, deviation = (torch.tensor(of)[:, None, None] for of in (report.mean, report.deviation))
    return (torch.from_numpy(np.ascontiguousarray(values)) - mean) / deviation
