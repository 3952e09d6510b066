"""Lists of paths in two arrays."""

from __future__ import annotations

import pickle

from inarch.population.data.reading.path_list import PathList


def test_path_list_returns_the_paths() -> None:
    paths = ["cat/1.png", "", "dög/2.png", "bytes/\udcff.png", "a" * 500]
    listed = PathList(paths)
    assert [listed[index] for index in range(len(listed))] == paths
    assert listed.digest() != PathList(paths[:-1]).digest() and listed.digest() == PathList(paths).digest()


def test_path_list_is_pickled_as_two_arrays() -> None:
    paths = [f"n{index % 1000:08d}/n{index % 1000:08d}_{index}.JPEG" for index in range(20_000)]
    listed = PathList(paths)
    buffers: list[pickle.PickleBuffer] = []
    rest = pickle.dumps(listed, protocol=5, buffer_callback=buffers.append)
    assert len(buffers) == 2 and len(rest) < 1000
    assert listed.nbytes == sum(map(len, paths)) + 8 * len(paths)
    assert pickle.loads(rest, buffers=buffers)[19_999] == paths[-1]
