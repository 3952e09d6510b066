"""Decode images as a viewer shows them: upright, with palette and transparency resolved, 8 bits a channel."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.TiffImagePlugin import PHOTOMETRIC_INTERPRETATION, TiffImageFile

from inarch.population.config import ImageSize
from inarch.population.data.reading.jpeg import decode_ordinary_jpeg
from inarch.population.errors import UnreadableImageError

IMAGE_SUFFIXES = frozenset(
    {
        *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".bmp", ".gif", ".webp", ".avif", ".ppm"),
        *(".pgm", ".pbm", ".pnm", ".tif", ".tiff", ".tga"),
    }
)
"""Suffixes of files that are read as images, in lower case."""

GRAY = frozenset({"1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N", "F"})
"""Pillow's modes without color."""

LFS_POINTER = b"version https://git-lfs"
"""First bytes of a file that Git LFS has not fetched."""

TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How a picture becomes upright, by its EXIF orientation."""

BACKGROUND = (255, 255, 255)
"""Color behind transparent pixels."""


def decode(content: bytes, name: str) -> Image.Image:
    """Decode an image.

    Args:
        content: Bytes of an image file.
        name: File or row of the image, for error messages.

    Returns:
        A picture of mode L or RGB, converted by `as_shown`.

    Raises:
        UnreadableImageError: The content cannot be decoded, or `as_shown` refuses the picture.
    """
    if not content:
        raise UnreadableImageError(f"{name} is empty and not an image")
    if content.startswith(LFS_POINTER):
        raise UnreadableImageError(f"{name} is a Git LFS pointer, not the image itself; fetch it with git lfs pull")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(content))
            picture.load()
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise UnreadableImageError(
            f"{name} has more than {limit // 10**6} million pixels, which Pillow refuses to decode; make it smaller"
        ) from None
    except UnidentifiedImageError:
        raise UnreadableImageError(f"{name} is not an image that Pillow can read") from None
    except Exception as error:  # Pillow raises what its parsers raise: OSError, SyntaxError, struct.error
        raise UnreadableImageError(f"{name} cannot be decoded as an image: {error}") from error
    return as_shown(picture, name)


def decode_pixels(content: bytes, name: str, *, channels: int) -> np.ndarray:
    """Decode an image to an array. The pixels equal those of `decode` and `with_channels`, and cost half the time.

    Args:
        content: Bytes of an image file.
        name: File or row of the image, for error messages.
        channels: 1 (gray) or 3 (RGB).

    Returns:
        Pixels, uint8, shape (height, width, channels), writable.

    Raises:
        UnreadableImageError: As `decode`.
    """
    pixels = decode_ordinary_jpeg(content)
    if pixels is not None and pixels.shape[2] == channels:
        return pixels
    if pixels is None:
        picture = decode(content, name)
    else:
        picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    shown = np.array(with_channels(picture, "gray" if channels == 1 else "rgb"))
    return shown.reshape(*shown.shape[:2], channels)


def as_shown(picture: Image.Image, name: str) -> Image.Image:
    """Convert a picture to what a viewer shows.

    EXIF orientation is applied. Palettes become their colors. Transparent pixels show white. 16 bits become 8. Floats
    must lie in [0, 1].

    Args:
        picture: A picture in any of Pillow's modes.
        name: File, row or item of the picture, for error messages.

    Returns:
        A picture of mode L if its mode is gray, else of mode RGB.

    Raises:
        UnreadableImageError: The mode has no agreed appearance (32-bit integers, floats outside [0, 1]), or Pillow
            cannot convert the picture.
    """
    try:
        picture = _upright(picture)
        if picture.mode in ("L", "RGB") and not picture.has_transparency_data:
            return picture
        is_gray = picture.mode in GRAY
        if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
            return _scaled_to_8_bits(picture, name)
        if picture.mode in ("La", "RGBa"):
            picture = picture.convert(f"{picture.mode[:-1]}A")
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
            background = Image.new("RGBA", picture.size, (*BACKGROUND, 255))
            picture = Image.alpha_composite(background, picture)
        return picture.convert("RGB").convert("L") if is_gray else picture.convert("RGB")
    except UnreadableImageError:
        raise
    except Exception as error:  # as in decode
        raise UnreadableImageError(f"{name} of mode {picture.mode} cannot be converted to RGB: {error}") from error


def _upright(picture: Image.Image) -> Image.Image:
    """Apply the orientation of a picture's EXIF data.

    `ImageOps.exif_transpose` also writes the EXIF data anew, which fails if an entry has an unusual type. TIFFs are
    upright once they are loaded.
    """
    picture.load()
    method = TRANSPOSES.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    return picture if method is None else picture.transpose(method)


def _scaled_to_8_bits(picture: Image.Image, name: str) -> Image.Image:
    """Return a picture of mode F, I or 16-bit I as mode L."""
    values = np.asarray(picture)
    if picture.mode.startswith("I;16") and _is_white_zero(picture):
        values = 65535 - values
    if picture.mode == "F":
        if not (np.isfinite(values).all() and values.min() >= 0.0 and values.max() <= 1.0):
            raise UnreadableImageError(f"{name} has floats outside [0, 1]; scale them, or save 8 or 16 bits a channel")
        scaled = values * 255.0
    elif picture.mode == "I":  # some of Pillow's readers give 16 bits in this mode
        if values.min() < 0 or values.max() > 65535 or values.max() <= 255:  # the scale is not known
            raise UnreadableImageError(f"{name} has 32-bit integers; save 8 or 16 bits a channel")
        scaled = values / 257.0
    else:
        scaled = values / 257.0
    return Image.fromarray(np.rint(scaled).astype(np.uint8))


def _is_white_zero(picture: Image.Image) -> bool:
    """Whether 0 is white in a TIFF. Pillow considers that for 8 bits, not for 16."""
    return isinstance(picture, TiffImageFile) and picture.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == 0


def stacked(pictures: list[Image.Image]) -> np.ndarray:
    """Return pictures of one size as a single array. The list is emptied, so that memory holds each picture once.

    Args:
        pictures: Pictures of mode L or RGB, at least one.

    Returns:
        Pixels, uint8, shape (pictures, 1, height, width) if all pictures are gray, else (pictures, 3, height, width).
    """
    width, height = pictures[0].size
    mode = "L" if all(picture.mode == "L" for picture in pictures) else "RGB"
    pixels = np.empty((len(pictures), 1 if mode == "L" else 3, height, width), dtype=np.uint8)
    for place in reversed(range(len(pictures))):
        shown = np.asarray(pictures.pop().convert(mode)).reshape(height, width, -1)
        pixels[place] = shown.transpose(2, 0, 1)
    return pixels


def with_channels(picture: Image.Image, channels: str) -> Image.Image:
    """Convert a picture of mode L or RGB to the channels that data.channels sets.

    Args:
        picture: A picture of mode L or RGB.
        channels: gray, rgb, or auto, which leaves the picture unchanged.
    """
    mode = {"gray": "L", "rgb": "RGB"}.get(channels, picture.mode)
    return picture if picture.mode == mode else picture.convert(mode)


def resized(picture: Image.Image, image_size: ImageSize | None) -> Image.Image:
    """Resize a picture and keep its mode.

    Args:
        picture: A picture of mode L or RGB.
        image_size: Size in pixels. An integer: the shorter side is scaled to it, and the center square is cropped.
            (height, width): height and width are scaled independently. None: the picture is returned unchanged.
    """
    if image_size is None:
        return picture
    if not isinstance(image_size, int):
        height, width = image_size
        return picture.resize((width, height), Image.Resampling.BILINEAR)
    if picture.size == (image_size, image_size):
        return picture
    width, height = picture.size
    short = min(width, height)
    size = int(image_size * width / short), int(image_size * height / short)  # as torchvision rounds
    return center(picture.resize(size, Image.Resampling.BILINEAR), image_size)


def margin(image_size: int) -> int:
    """Return the shorter side before a center crop, with the margin that is usual for ImageNet (8/7).

    Args:
        image_size: Pixels a side of the crop.

    Returns:
        Pixels.
    """
    return image_size * 8 // 7


def center(picture: Image.Image, image_size: int) -> Image.Image:
    """Crop the central square of a picture.

    Args:
        picture: A picture of any size.
        image_size: Pixels a side of the square.
    """
    left, top = round((picture.width - image_size) / 2), round((picture.height - image_size) / 2)  # as torchvision
    return picture.crop((left, top, left + image_size, top + image_size))
