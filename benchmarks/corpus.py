"""Corpus S: many small files, made from a seed, and changes to one in a hundred of them."""

from __future__ import annotations

import os
import random
from itertools import accumulate
from pathlib import Path

# The whole corpus; smaller ones have proportionally fewer folders.
FILES, FOLDERS = 100_000, 5_220
_USUAL_SIZE = 2_900
_LARGEST = 200_000
_BRANCHES = 9
# Nanoseconds since 1970. Two trees of one seed are equal in their times, too.
_BEGAN = 1_700_000_000_000_000_000
_STEP = 1_000_003_000


class Source:
    """Content as it is in real trees: text of words of which few are frequent; every twelfth file is noise."""

    def __init__(self, dice: random.Random, files: int) -> None:
        self._dice = dice
        syllables = [a + b for a in "bcdfghklmnprstvwz" for b in ("a", "e", "i", "o", "u", "er", "an", "in")]
        words = ["".join(dice.choices(syllables, k=dice.randint(1, 5))) for _ in range(20_000)]
        words += ["=", "(", ")", "self.", "    ", "    ", "return ", "import ", "\n", "\n", "\n    ", "\n\n"] * 40
        dice.shuffle(words)
        weights = list(accumulate(1 / (rank + 3) for rank in range(len(words))))
        self._text = " ".join(dice.choices(words, cum_weights=weights, k=max(20_000, 35 * files))).encode()
        self._noise = dice.randbytes(1 << 22)

    def make(self, number: int) -> bytes:
        """Return the content of a file that no other has."""
        dice = self._dice
        size = min(int(dice.expovariate(1 / _USUAL_SIZE)), _LARGEST)
        pool = self._noise if number % 12 == 0 else self._text
        pieces = [b"# file %d of the corpus\n" % number]
        while size > 0:
            # Pieces from everywhere: what compresses them is their language, not that they were met before.
            length = min(size, dice.randint(100, 800))
            at = dice.randrange(len(pool) - length)
            pieces.append(pool[at : at + length])
            size -= length
        return b"".join(pieces)


def names(count: int) -> tuple[list[str], list[str]]:
    """Return the folders and files of a tree of `count` files, by path from its root."""
    folders = [""]
    for number in range(max(count * FOLDERS // FILES, 12) - 1):
        folders.append(os.path.join(folders[number // _BRANCHES], f"d{number}"))
    return folders, [os.path.join(folders[number % len(folders)], f"file_{number}.py") for number in range(count)]


def make(root: Path, seed: int, count: int) -> None:
    """Make a tree of `count` files, equal for equal seeds in everything that rsync compares."""
    source = Source(random.Random(seed), count)
    folders, files = names(count)
    for folder in folders:
        os.mkdir(root / folder)
    for number, name in enumerate(files):
        path = os.path.join(root, name)
        _write(path, source.make(number), number)
        if number % 300 == 0:
            os.chmod(path, 0o755)
    _set_times(root, folders)


def changes(count: int) -> int:
    """Return how many files `change` touches."""
    return count // 100 + 2 * (count // 200)


def change(root: Path, seed: int, count: int) -> None:
    """Modify one file in a hundred, add half as many and delete half as many.

    It ends in the same state whenever it is done to the same tree with the same seed.
    """
    dice = random.Random(seed)
    source = Source(dice, count // 50)
    folders, files = names(count)
    modified, others = count // 100, count // 200
    chosen = dice.sample(files, modified + others)
    for number, name in enumerate(chosen[:modified]):
        _write(os.path.join(root, name), source.make(number) + b"# changed\n", count + number)
    for name in chosen[modified:]:
        os.unlink(root / name)
    added = [os.path.join(dice.choice(folders), f"added_{number}.py") for number in range(others)]
    for number, name in enumerate(added):
        _write(os.path.join(root, name), source.make(number), 2 * count + number)
    _set_times(root, sorted({os.path.dirname(name) for name in chosen[modified:] + added}))


def _write(path: str, data: bytes, number: int) -> None:
    with open(path, "wb") as file:
        file.write(data)
    time = _BEGAN + number * _STEP
    os.utime(path, ns=(time, time))


def _set_times(root: Path, folders: list[str]) -> None:
    # A folder's own time would be that of the run.
    for folder in folders:
        os.utime(root / folder, ns=(_BEGAN, _BEGAN))
