"""Damage to files, drawn from a seed: what disks, networks and dying writers leave."""

from __future__ import annotations

import random
from collections.abc import Iterator

KINDS = ("flip", "flips", "byte", "zeros", "cut", "empty", "appended", "swapped")
"""Kinds of damage."""


def damaged(content: bytes, number: int, *, seed: int = 0) -> bytes:
    """Return a damaged copy, which is never equal to the content.

    Args:
        content: All bytes of a file, at least 2 different ones.
        number: Number of the damage, from which its kind and place follow.
        seed: Seed of all damages.
    """
    for attempt in range(1000):
        draw = random.Random(f"{seed}-{number}-{attempt}")
        changed = _damage(content, KINDS[number % len(KINDS)], draw)
        if changed != content:
            return changed
    raise AssertionError("no damage changes this content")


def damages(content: bytes, *, count: int = 300, seed: int = 0) -> Iterator[bytes]:
    """Yield damaged copies of a file.

    Args:
        content: All bytes of the file.
        count: Number of copies.
        seed: Seed of all damages.
    """
    for number in range(count):
        yield damaged(content, number, seed=seed)


def _damage(content: bytes, kind: str, draw: random.Random) -> bytes:
    changed = bytearray(content)
    place = draw.randrange(len(changed))
    if kind == "empty":
        return b"" if draw.random() < 0.2 else bytes(content[: draw.randrange(1, 9)])
    if kind == "cut":
        return bytes(content[:place])
    if kind == "appended":
        return content + draw.randbytes(draw.randrange(1, 64))
    if kind == "zeros":  # a block that was never written
        size = draw.choice((1, 8, 64, 512))
        changed[place : place + size] = bytes(len(changed[place : place + size]))
    if kind == "swapped":
        other = draw.randrange(len(changed))
        changed[place], changed[other] = changed[other], changed[place]
    if kind == "byte":
        changed[place] = draw.randrange(256)
    if kind in ("flip", "flips"):
        for _ in range(1 if kind == "flip" else 3):
            changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)
