"""The file of decoded images: complete images only, no waiting for killed writers, removed by its last user."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from inarch.population.data.loader.decoded_cache import CachedImages, SharedCache
from inarch.population.errors import DataError

PICTURE = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)


def shared(folder: Path, key: bytes = b"key", *, num_images: int = 10) -> SharedCache:
    return SharedCache(str(folder), key, num_images=num_images, max_pixels=30, channels=3)


def test_written_images_are_read_by_every_user(tmp_path: Path) -> None:
    first, second = shared(tmp_path), shared(tmp_path)
    assert first.layout == second.layout and len(list(tmp_path.iterdir())) == 1
    writer, reader = CachedImages(first.layout), CachedImages(second.layout)
    assert reader.read(3) is None
    writer.write(3, 4, 5, PICTURE)
    entry = reader.read(3)
    assert entry is not None and entry[:2] == (4, 5) and np.array_equal(entry[2].reshape(4, 5, 3), PICTURE)
    assert reader.holds(np.array([2, 3, 9])).tolist() == [False, True, False]
    other = shared(tmp_path, b"other")
    assert other.layout.path != first.layout.path
    for cache in (first, second, other):
        cache.close()


def test_half_written_images_are_not_read(tmp_path: Path) -> None:
    cache = shared(tmp_path)
    images = CachedImages(cache.layout)
    descriptor = os.open(cache.layout.path, os.O_RDWR)
    place = cache.layout.first_byte + 2 * cache.layout.slot_bytes
    os.pwrite(descriptor, PICTURE.tobytes()[:30], place)  # a writer killed before it wrote the entry
    assert images.read(2) is None
    images.write(2, 4, 5, PICTURE)
    assert images.read(2) is not None
    os.pwrite(descriptor, b"\xff" * 10, place + 20)
    assert images.read(2) is None
    os.close(descriptor)
    cache.close()


def test_last_user_removes_the_file(tmp_path: Path) -> None:
    first, second = shared(tmp_path), shared(tmp_path)
    first.close()
    assert Path(second.layout.path).exists()
    first.close()  # closing twice changes nothing
    assert Path(second.layout.path).exists()
    del second
    assert list(tmp_path.iterdir()) == []


def test_files_of_killed_runs_are_removed(tmp_path: Path) -> None:
    """A process takes two caches, writes an image, and is killed."""
    program = f"""
import sys, numpy as np
from inarch.population.data.loader.decoded_cache import CachedImages, SharedCache
caches = [SharedCache({str(tmp_path)!r}, key, num_images=10, max_pixels=30, channels=3) for key in (b"key", b"old")]
CachedImages(caches[0].layout).write(0, 4, 5, np.zeros((4, 5, 3), np.uint8))
print("ready", flush=True)
sys.stdin.read()
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    during = shared(tmp_path)
    assert CachedImages(during.layout).read(0) is not None and len(list(tmp_path.iterdir())) == 2
    during.close()
    assert len(list(tmp_path.iterdir())) == 2, "the other process still uses both"
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    after = shared(tmp_path)
    assert CachedImages(after.layout).read(0) is None, "the images may have changed since"
    assert [str(path) for path in tmp_path.iterdir()] == [after.layout.path]
    after.close()


def test_lack_of_disk_space_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError) as raised:
        shared(tmp_path, num_images=10**14)
    assert re.match(
        r"data\.cache: 100,000,000,000,000 decoded images need .* MiB of disk space, and .* has .* MiB; name a folder "
        r"on a larger disk in data\.cache_folder, or set data\.cache=off",
        str(raised.value),
    )
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"data\.cache: .*file cannot be used: .*data\.cache_folder"):
        shared(tmp_path / "file")


def test_small_file_fits_on_a_nearly_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file leaves as many bytes free as it has, not 256 MiB."""
    cache = shared(tmp_path)
    nbytes = cache.layout.nbytes
    cache.close()
    disk = SimpleNamespace(free=2 * nbytes)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: disk)
    cache = shared(tmp_path)
    assert cache.layout.nbytes == nbytes
    cache.close()
    disk.free -= 1
    with pytest.raises(DataError, match=r"of disk space, and .* has 0\.0 MiB"):
        shared(tmp_path)
