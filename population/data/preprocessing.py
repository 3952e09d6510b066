"""Prepare a picture for a trained network, as the report of its training data describes."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from inarch.population.data.reading.decoding import as_shown, center, margin, resized, with_channels
from inarch.population.data.report import DataReport
from inarch.population.errors import DataError


def preprocess(picture: Image.Image, report: DataReport, *, name: str) -> Tensor:
    """Convert, resize and normalize a picture in the same way as the training images.

    Args:
        picture: A picture in any of Pillow's modes.
        report: Description of the run's data.
        name: File of the picture, for error messages.

    Returns:
        Shape (channels, height, width), float32.

    Raises:
        DataError: The network was trained on values that are not pixels, or the picture's size differs from the
            training images and the run does not resize.
        UnreadableImageError: The picture's mode has no agreed appearance.
    """
    if not report.is_pixels:
        raise DataError("the run was trained on arrays whose values are not pixels from 0 to 1 or 0 to 255")
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
            f"{name} has {shown.width}x{shown.height} pixels, the training images {width}x{height}; resize the picture"
        )
    values = np.asarray(shown, dtype=np.float32).reshape(height, width, channels).transpose(2, 0, 1) / 255.0
    mean, deviation = (torch.tensor(value)[:, None, None] for value in (report.mean, report.deviation))
    return (torch.from_numpy(np.ascontiguousarray(values)) - mean) / deviation
