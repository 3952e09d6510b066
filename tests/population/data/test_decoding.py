"""Decoded pixels equal what an image viewer shows, for every mode, carrier and way of loading."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image, ImageOps

from inarch.population import DataConfig
from inarch.population.data import MemorySplits, as_shown, decode, from_dataset, load_splits
from inarch.population.data.reading.decoding import decode_pixels, resized, with_channels
from inarch.population.data.reading.jpeg import decode_ordinary_jpeg
from inarch.population.errors import DataError, UnreadableImageError
from tests.images import encoded, picture, pixels, write_classes, write_table

RANDOM = np.random.default_rng(0)
COLORS = RANDOM.integers(0, 256, (10, 14, 3), dtype=np.uint8)
GRAYS = RANDOM.integers(0, 256, (10, 14), dtype=np.uint8)
RGB, GRAY = Image.fromarray(COLORS), Image.fromarray(GRAYS)


def with_alpha(image: Image.Image, alpha: int) -> Image.Image:
    converted = image.convert("LA" if image.mode == "L" else "RGBA")
    converted.putalpha(Image.new("L", image.size, alpha))
    return converted


def oriented(image: Image.Image, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, "PNG", exif=exif)


def white_is_zero(values: np.ndarray) -> bytes:
    """Return a TIFF of 16 bits in which 0 is white. Pillow writes none, so the entry of its header is changed."""
    content = encoded(Image.fromarray(65535 - values), "TIFF")
    entry = struct.pack("<HHII", 262, 3, 1, 1)  # photometric interpretation: one number of 16 bits, black is zero
    assert content.count(entry) == 1
    return content.replace(entry, struct.pack("<HHII", 262, 3, 1, 0))


PALETTE = RGB.convert("P", palette=Image.Palette.ADAPTIVE)

SIXTEEN = GRAYS.astype(np.uint16) * 257 - RANDOM.integers(0, 100, GRAYS.shape).astype(np.uint16) * (GRAYS > 0)

SHOWN = {
    "L": (encoded(GRAY), GRAYS),
    "RGB": (encoded(RGB), COLORS),
    "1": (encoded(GRAY.convert("1")), pixels(GRAY.convert("1").convert("L"))),
    "P": (encoded(PALETTE), pixels(PALETTE.convert("RGB"))),
    "P gray": (encoded(GRAY.convert("P")), np.repeat(GRAYS[..., None], 3, 2)),
    "RGBA opaque": (encoded(with_alpha(RGB, 255)), COLORS),
    "RGBA transparent": (encoded(with_alpha(RGB, 0)), np.full_like(COLORS, 255)),
    "LA opaque": (encoded(with_alpha(GRAY, 255)), GRAYS),
    "LA transparent": (encoded(with_alpha(GRAY, 0)), np.full_like(GRAYS, 255)),
    "16 bits": (encoded(Image.fromarray(SIXTEEN)), np.rint(SIXTEEN / 257).astype(np.uint8)),
    "16-bit TIFF": (encoded(Image.fromarray(SIXTEEN), "TIFF"), np.rint(SIXTEEN / 257).astype(np.uint8)),
    "16-bit TIFF, white is zero": (white_is_zero(SIXTEEN), np.rint(SIXTEEN / 257).astype(np.uint8)),
    "float TIFF": (encoded(Image.fromarray(GRAYS.astype(np.float32) / 255), "TIFF"), GRAYS),
    "CMYK TIFF": (encoded(RGB.convert("CMYK"), "TIFF"), pixels(RGB.convert("CMYK").convert("RGB"))),
    "CMYK JPEG": (encoded(RGB.convert("CMYK"), "JPEG", quality=95), None),
    "WebP": (encoded(with_alpha(RGB, 255), "WEBP", lossless=True), COLORS),
    "GIF": (encoded(GRAY, "GIF", save_all=True, append_images=[GRAY.transpose(Image.Transpose.ROTATE_180)]), None),
    **{f"EXIF {value}": (oriented(RGB, value), None) for value in range(1, 9)},
}


@pytest.mark.parametrize("kind", SHOWN)
def test_decode_gives_the_pixels_that_a_viewer_shows(kind: str) -> None:
    content, expected = SHOWN[kind]
    image = decode(content, "x.png")
    if expected is None:
        upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
        expected = pixels(upright.convert("L" if kind == "GIF" else "RGB"))
        image = image.convert("L") if kind == "GIF" else image
    assert image.mode == ("L" if expected.ndim == 2 else "RGB")
    assert np.array_equal(pixels(image), expected)


def oriented_jpeg(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(RGB, "JPEG", exif=exif)


JPEGS = {
    "baseline": encoded(RGB, "JPEG"),
    "progressive": encoded(RGB, "JPEG", progressive=True, quality=60),
    "no subsampling": encoded(RGB, "JPEG", subsampling=0),
    "RGB": encoded(RGB, "JPEG", keep_rgb=True),
    "gray": encoded(GRAY, "JPEG"),
    "large": encoded(RGB.resize((501, 333), Image.Resampling.BICUBIC), "JPEG", quality=90),
    "bytes after the end": encoded(RGB, "JPEG") + b"rest" * 9,
    **{f"EXIF {value}": oriented_jpeg(value) for value in range(1, 9)},
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", [*SHOWN, *JPEGS])
def test_decode_pixels_equals_pillow(kind: str, channels: int) -> None:
    content = JPEGS[kind] if kind in JPEGS else SHOWN[kind][0]
    picture = with_channels(as_shown(Image.open(io.BytesIO(content)), "x"), "gray" if channels == 1 else "rgb")
    decoded = decode_pixels(content, "x", channels=channels)
    assert decoded.shape == (picture.height, picture.width, channels) and decoded.flags.writeable
    assert np.array_equal(decoded, pixels(picture).reshape(decoded.shape))


def test_ordinary_jpegs_are_decoded_without_pillow() -> None:
    ordinary = ("baseline", "progressive", "no subsampling", "RGB", "gray", "large", "bytes after the end", "EXIF 1")
    assert all(decode_ordinary_jpeg(JPEGS[kind]) is not None for kind in ordinary)
    others = [JPEGS["EXIF 6"], SHOWN["CMYK JPEG"][0], SHOWN["RGB"][0], JPEGS["large"][:900], b"", b"\xff\xd8\xff"]
    assert [decode_ordinary_jpeg(content) for content in others] == [None] * len(others)


def test_decode_pixels_refuses_what_decode_refuses(monkeypatch) -> None:
    for content, message in (
        (JPEGS["large"][: len(JPEGS["large"]) // 2], "x cannot be decoded as an image"),
        (b"", "x is empty"),
        (b"\xff\xd8\xff no JPEG", "x is not an image|x cannot be decoded"),
    ):
        with pytest.raises(UnreadableImageError, match=message):
            decode_pixels(content, "x", channels=3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with pytest.raises(UnreadableImageError, match=r"x has more than .* pixels, which Pillow refuses"):
        decode_pixels(JPEGS["large"], "x", channels=3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert decode_pixels(JPEGS["large"], "x", channels=3).shape == (333, 501, 3)


@pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")
@pytest.mark.parametrize(
    "kind", ["L", "RGB", "P", "RGBA opaque", "LA opaque", "1", *(f"EXIF {n}" for n in range(1, 9))]
)
def test_decode_gives_the_same_pixels_as_torchvision(kind: str) -> None:
    content, _ = SHOWN[kind]
    buffer = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    mode = torchvision.io.ImageReadMode.RGB
    expected = torchvision.io.decode_image(buffer, mode=mode, apply_exif_orientation=True)
    decoded = torch.from_numpy(pixels(with_channels(decode(content, "x"), "rgb")).copy()).permute(2, 0, 1)
    assert torch.equal(decoded, expected)


def test_decode_blends_transparent_pixels_with_white() -> None:
    blended = pixels(decode(encoded(with_alpha(Image.new("RGB", (4, 4)), 127)), "x"))
    assert np.all(np.abs(blended.astype(int) - 128) <= 1)
    transparent = Image.new("P", (4, 4), 1)
    transparent.putpalette([0, 0, 0, 10, 20, 30])
    assert np.all(pixels(decode(encoded(transparent, transparency=1), "x")) == 255)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.fromarray(np.full((4, 4), 3.5, np.float32)), r"floats outside \[0, 1\]"),
        (Image.fromarray(np.full((4, 4), np.nan, np.float32)), r"floats outside \[0, 1\]"),
        (Image.fromarray(np.full((4, 4), 70_000, np.int32)), "32-bit integers"),
    ],
)
def test_decode_refuses_ambiguous_modes_with_the_file_name(image: Image.Image, message: str) -> None:
    with pytest.raises(UnreadableImageError, match=rf"photo.tif has {message}"):
        decode(encoded(image, "TIFF"), "photo.tif")


def test_decode_refuses_unreadable_images_with_their_name(monkeypatch) -> None:
    whole = encoded(RGB.resize((64, 64)), "JPEG")
    for content, message in (
        (b"", "x is empty"),
        (b"no image at all", "x is not an image"),
        (whole[: len(whole) // 2], "x cannot be decoded as an image"),
        (encoded(RGB)[:-30], "x cannot be decoded as an image"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "x is a Git LFS pointer"),
    ):
        with pytest.raises(UnreadableImageError, match=message):
            decode(content, "x")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with pytest.raises(UnreadableImageError, match=r"x has more than .* pixels, which Pillow refuses"):
        decode(encoded(RGB), "x")


@pytest.mark.parametrize("size", [6, 12, (6, 9), 20])
@pytest.mark.parametrize("shape", [(12, 12), (20, 12), (12, 30)])
def test_resized_keeps_the_mode_and_sets_the_size(size, shape: tuple[int, int]) -> None:
    for mode in ("L", "RGB"):
        image = resized(picture(100, size=shape, mode=mode), size)
        assert image.mode == mode
        assert image.size == ((size, size) if isinstance(size, int) else size[::-1])


def parquet_of(path: Path, contents: list[bytes]) -> str:
    return write_table(path, [index % 2 for index in range(len(contents))], images=contents)


@pytest.mark.parametrize("kind", SHOWN)
def test_folders_tables_datasets_and_streams_give_equal_pixels(tmp_path: Path, kind: str) -> None:
    content, _ = SHOWN[kind]
    contents = [content] * 4
    for index in range(4):
        (tmp_path / "folder" / "ab"[index % 2]).mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / "ab"[index % 2] / f"{index}.png").write_bytes(content)
    parquet = parquet_of(tmp_path / "x.parquet", contents)
    expected = pixels(with_channels(decode(content, "x"), "rgb")).transpose(2, 0, 1)
    fields: dict[str, Any] = {"validation": 0.0, "channels": "rgb"}
    for train in (str(tmp_path / "folder"), parquet):
        splits = load_splits(DataConfig(train=train, **fields), seed=0)
        assert isinstance(splits, MemorySplits)
        assert all(np.array_equal(image, expected) for image in splits.train.images)
        height, width = expected.shape[1:]
        config = DataConfig(train=train, stream="always", workers=0, image_size=(height, width), **fields)
        streamed = load_splits(config, seed=0)
        batches = streamed.batches("train", "cpu")
        assert batches is not None
        images, _ = next(iter(batches.in_order(batch_size=4)))
        mean, deviation = (
            torch.tensor(statistic)[:, None, None] for statistic in (streamed.report.mean, streamed.report.deviation)
        )
        assert torch.allclose(
            (images[0] * deviation + mean) * 255, torch.tensor(expected, dtype=torch.float32), atol=1e-3
        )
    items = [(Image.open(io.BytesIO(content)), index % 2) for index in range(4)]
    dataset = from_dataset(items, DataConfig(channels="rgb"), name="data")
    assert all(np.array_equal(image, expected) for image in dataset.images)


def test_from_dataset_converts_palette_images_to_colors() -> None:
    converted = from_dataset([(PALETTE, 0), (RGB, 1)], name="data")
    assert np.array_equal(converted.images[0].transpose(1, 2, 0), pixels(PALETTE.convert("RGB")))


def test_channels_auto_is_gray_only_if_every_split_is_gray(tmp_path: Path) -> None:
    gray = parquet_of(tmp_path / "gray.parquet", [encoded(picture(9, mode="L"))] * 6)
    color = parquet_of(tmp_path / "color.parquet", [encoded(picture(9))] * 6)
    fields: dict[str, Any] = {"validation": 0.0}
    assert load_splits(DataConfig(train=gray, test=gray, **fields), seed=0).image_shape == (1, 12, 12)
    for train, test in ((gray, color), (color, gray)):
        splits = load_splits(DataConfig(train=train, test=test, **fields), seed=0)
        assert isinstance(splits, MemorySplits) and splits.test is not None
        assert splits.image_shape == splits.test.shape == (3, 12, 12)
    options: list[tuple[Any, int]] = [("gray", 1), ("rgb", 3)]
    for channels, number in options:
        streams: list[Any] = ["never", "always"]
        for stream in streams:
            config = DataConfig(train=color, test=gray, channels=channels, stream=stream, workers=0, **fields)
            splits = load_splits(config, seed=0)
            assert splits.in_channels == number
            batches = splits.batches("train", "cpu")
            assert batches is not None and next(iter(batches.in_order(batch_size=2)))[0].shape[1] == number


def test_resized_gray_images_stay_gray(tmp_path: Path) -> None:
    train = parquet_of(tmp_path / "a.parquet", [encoded(picture(9, mode="L"))] * 4)
    test = parquet_of(tmp_path / "b.parquet", [encoded(picture(9, mode="L", size=(12, 20)))] * 4)
    splits = load_splits(DataConfig(train=train, test=test, image_size=12, validation=0.0), seed=0)
    assert splits.image_shape == (1, 12, 12)


def broken_parquet(path: Path, *, rows: int = 20, broken: tuple[int, ...] = (7, 13)) -> str:
    whole = encoded(RGB.resize((40, 40)), "JPEG")
    return parquet_of(path, [whole[:200] if index in broken else whole for index in range(rows)])


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_image_error_names_its_row(tmp_path: Path, workers: int) -> None:
    train = broken_parquet(tmp_path / "x.parquet")
    with pytest.raises(UnreadableImageError, match=r"x.parquet, row 7 cannot be decoded"):
        load_splits(DataConfig(train=train, validation=0.0), seed=0)
    config = DataConfig(train=train, stream="always", image_size=32, workers=workers, validation=0.0)
    batches = load_splits(config, seed=0).batches("train", "cpu")
    assert batches is not None
    with pytest.raises(UnreadableImageError) as raised:
        list(batches.in_order(batch_size=5))
    assert str(raised.value).startswith(f"{train}, row 7 cannot be decoded") and "Traceback" not in str(raised.value)


@pytest.mark.parametrize("stream", ["never", "always"])
@pytest.mark.parametrize("carrier", ["table", "folder"])
def test_skip_unreadable_leaves_out_and_lists_bad_images(tmp_path: Path, stream: str, carrier: str) -> None:
    if carrier == "table":
        train = broken_parquet(tmp_path / "x.parquet")
    else:
        train = write_classes(tmp_path / "train", ("cat", "dog"), each=10)
        (tmp_path / "train" / "cat" / "3.png").write_bytes(b"")
        (tmp_path / "train" / "dog" / "3.png").write_bytes(encoded(picture(1))[:40])
    fields: dict[str, Any] = {"stream": stream, "image_size": 12, "workers": 0, "validation": 0.0}
    splits = load_splits(DataConfig(train=train, skip_unreadable=2, **fields), seed=0)
    assert splits.report.sizes["train"] == 18 == len(splits.labels("train")) and len(splits.report.unreadable) == 2
    assert "left out images that cannot be read: 2" in splits.report.lines()
    batches = splits.batches("train", "cpu")
    assert batches is not None and sum(len(labels) for _, labels in batches.in_order(batch_size=4)) == 18
    with pytest.raises(
        DataError,
        match=r"data.skip_unreadable=1: more images than that cannot be read, among them: .*x"
        if carrier == "table"
        else "more images than that cannot be read",
    ):
        load_splits(DataConfig(train=train, skip_unreadable=1, **fields), seed=0)


def test_as_shown_leaves_plain_images_unchanged() -> None:
    assert as_shown(RGB, "x") is RGB or np.array_equal(pixels(as_shown(RGB, "x")), COLORS)


@pytest.mark.parametrize("tag", [256, 282, 296, 531])  # width, resolution, its unit, positions of colors
def test_odd_exif_entries_do_not_make_a_photo_unreadable(tag: int) -> None:
    entries = [struct.pack("<HHII", 0x0112, 3, 1, 6), struct.pack("<HHI4s", tag, 2, 4, b"odd")]
    in_order = entries if tag > 0x0112 else reversed(entries)
    exif = b"II*\0" + struct.pack("<IH", 8, 2) + b"".join(in_order) + struct.pack("<I", 0)
    content = encoded(RGB, "PNG", exif=exif)
    assert np.array_equal(pixels(decode(content, "photo")), np.rot90(COLORS, -1))


def test_decoding_needs_little_more_memory_than_the_pixels(tmp_path: Path) -> None:
    write_classes(tmp_path / "small", ("a", "b"))
    for name in ("a", "b"):
        (tmp_path / "large" / name).mkdir(parents=True)
        for index in range(60):
            picture(index, size=(400, 500)).save(tmp_path / "large" / name / f"{index}.png")
    program = f"""
from inarch.population import DataConfig
from inarch.population.data import load_splits

def peak():
    (line,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024

load_splits(DataConfig(train={str(tmp_path / "small")!r}, validation=0.0), seed=0)  # imports what it needs
open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
before = peak()
splits = load_splits(DataConfig(train={str(tmp_path / "large")!r}, validation=0.0), seed=0)
assert splits.train.images.shape == (120, 3, 500, 400)
print(peak() - before)
"""
    printed = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=120)
    pixels_mib = 120 * 3 * 400 * 500 / 2**20
    assert float(printed.stdout) < 6 * pixels_mib, "Pillow needs 1.3 times the pixels, and before it was 19 times"


@pytest.mark.parametrize("is_loaded", [False, True])
def test_rotated_tiff_is_turned_once(tmp_path: Path, is_loaded: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    RGB.save(tmp_path / "photo.tif", exif=exif)
    photo = Image.open(tmp_path / "photo.tif")
    if is_loaded:
        photo.load()
    assert np.array_equal(pixels(as_shown(photo, "photo")), np.rot90(COLORS, -1))
