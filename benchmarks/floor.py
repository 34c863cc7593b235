"""What a first checkpoint costs at least in Python: `.venv/bin/python -m benchmarks.floor`.

The least that rfs's format and promises ask for, and nothing else, in two processes: each file is listed,
opened, read, asked for attributes and flags, looked at again, hashed twice (its content's identity and the
blob's keyed id), compressed, encrypted and appended to a pack of the process's own, which is fsynced.
There is no manifest, no index, no catalog, no footer, and no error is handled. Measured between restic
and rfs, alternating; what rfs takes longer than this is what could still be won.

`frames` does the same, but compresses and encrypts many small files as one, and hashes each once only.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks import corpus
from benchmarks.measure import Cost, compile_rfs, run
from benchmarks.tools import Restic, Rfs

_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_GET_FLAGS = (2 << 30) | (8 << 16) | (ord("f") << 8) | 1
_NO_ANSWER = bytes(8)
_AT_ONCE = 1 << 20


def store(tree: str, folders: list[str], pack: str, frame: int) -> None:
    """Store what lies in some folders, without those in them, in a file.

    Args:
        frame: bytes that are compressed and encrypted as one; 0: each file by itself.
    """
    from blake3 import blake3
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from zstandard import ZstdCompressor

    key = os.urandom(32)
    compress, encrypt = ZstdCompressor(level=1).compress, AESGCM(key).encrypt
    out = os.open(pack, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    pieces: list[bytes] = []
    together: list[bytes] = []
    filled = waiting = 0

    def seal(data: bytes, context: bytes) -> int:
        nonce = os.urandom(12)
        sealed = encrypt(nonce, b"\1" + compress(data), context)
        pieces.extend((nonce, sealed))
        return len(sealed)

    for folder in folders:
        fd = os.open(os.path.join(tree, folder), os.O_RDONLY | os.O_CLOEXEC)
        with os.scandir(fd) as entries:
            for entry in entries:
                if not entry.is_file(follow_symlinks=False):
                    continue
                before = entry.stat(follow_symlinks=False)
                file = os.open(entry.name, _OPEN, dir_fd=fd)
                data = os.read(file, before.st_size + 1)
                os.listxattr(file)
                fcntl.ioctl(file, _GET_FLAGS, _NO_ANSWER)
                after = os.fstat(file)
                os.close(file)
                if (before.st_ctime_ns, before.st_size) != (after.st_ctime_ns, len(data)):
                    raise RuntimeError(entry.name)
                blob = blake3(data, key=key).digest()
                if not frame:
                    blake3(data).digest()
                    filled += seal(data, b"blob" + blob)
                else:
                    together.append(data)
                    waiting += len(data)
                    if waiting >= frame:
                        filled += seal(b"".join(together), b"frame")
                        together.clear()
                        waiting = 0
                if filled >= _AT_ONCE:
                    os.write(out, b"".join(pieces))
                    pieces.clear()
                    filled = 0
        os.close(fd)
    if together:
        seal(b"".join(together), b"frame")
    os.write(out, b"".join(pieces))
    os.fsync(out)
    os.close(out)


def both(tree: str, home: str, frame: int) -> None:
    """Store a tree in two processes, each every other folder."""
    folders = [os.path.relpath(path, tree) for path, _, _ in os.walk(tree)]
    child = os.fork()
    if not child:
        status = 1
        try:
            store(tree, folders[1::2], os.path.join(home, "child.pack"), frame)
            status = 0
        finally:
            os._exit(status)
    store(tree, folders[::2], os.path.join(home, "parent.pack"), frame)
    if os.waitpid(child, 0)[1]:
        raise RuntimeError("the child failed")


class Floor:
    """The least, as a tool beside the others."""

    name = "floor"
    frame = 0

    def __init__(self, tree: Path, home: Path) -> None:
        self._tree, self._home = tree, home

    def first(self) -> Cost:
        """Store the tree."""
        self._home.mkdir(parents=True)
        checkout = Path(__file__).parent.parent
        argv = [sys.executable, "-m", "benchmarks.floor", "--only", str(self._tree), str(self._home), str(self.frame)]
        return run(argv, cwd=checkout)[0]


class Frames(Floor):
    """The least, were many small files sealed as one."""

    name = "frames"
    frame = 64 << 10


def _median(costs: list[Cost], at: int) -> float:
    return statistics.median(cost[at] for cost in costs)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.floor", description=__doc__)
    parser.add_argument("--only", nargs=3, metavar=("TREE", "HOME", "FRAME"), help="store a tree; nothing is measured")
    parser.add_argument("--files", type=int, default=corpus.FILES, help="how many; fewer for a quick look")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured")
    options = parser.parse_args()
    if options.only:
        tree, home, frame = options.only
        both(tree, home, int(frame))
        return 0
    compile_rfs()
    place = Path(tempfile.mkdtemp(prefix="rfs-floor-"))
    kinds = [kind for kind in (Restic, Rfs, Floor, Frames) if kind is not Restic or Restic.version()]
    costs: dict[str, list[Cost]] = {kind.name: [] for kind in kinds}
    try:
        corpus.make(place / "tree", 20, options.files)
        for _ in range(options.rounds):
            for kind in kinds:
                cost = kind(place / "tree", place / kind.name).first()
                shutil.rmtree(place / kind.name)
                costs[kind.name].append(cost)
                print(f"{kind.name:7} {cost.wall:7.2f} s {cost.cpu:7.2f} s of CPU", flush=True)
    finally:
        shutil.rmtree(place)
    beside = costs[kinds[0].name]
    for name, found in costs.items():
        wall, cpu = (_median(found, at) / _median(beside, at) for at in (0, 1))
        print(f"{name:7} {wall:.2f} of {kinds[0].name}'s time, {cpu:.2f} of its CPU time")
    return 0


if __name__ == "__main__":
    sys.exit(main())
