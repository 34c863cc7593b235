"""Puts a running-ready shop into an empty folder: `python install.py FOLDER`, then start supervisord there.

Its database is a file in the folder, or with `python install.py FOLDER DATABASE_URL` one of a PostgreSQL server,
which exists, is empty, and belongs to the role of the URL.

The program's files are copied; what differs from one installation to the next is made
here: a free port, the secrets in .env, supervisord.conf, the database with its data.
"""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import shutil
import socket
import struct
import sys
import zlib
from pathlib import Path

from app import VERSION, checkout, database

SOURCE = Path(__file__).resolve().parent
SEED = 20_240_601  # the same shop every time
PRODUCTS, CUSTOMERS, ORDERS = 24, 200, 1_000
# sun_path holds 108 bytes, and supervisord binds NAME.PID before it renames.
LONGEST_SOCKET_PATH = 96

SUPERVISORD_CONF = """\
; The process manager of the shop: supervisord -c supervisord.conf
[unix_http_server]
file = %(here)s/run/supervisor.sock
chmod = 0700

[supervisord]
logfile = %(here)s/log/supervisord.log
pidfile = %(here)s/run/supervisord.pid
childlogdir = %(here)s/log

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface

[supervisorctl]
serverurl = unix://%(here)s/run/supervisor.sock

[program:web]
command = {python} -m app.web
directory = %(here)s
startsecs = 1
stopwaitsecs = 5
redirect_stderr = true
stdout_logfile = %(here)s/log/web.log

[program:worker]
command = {python} -m app.worker
directory = %(here)s
startsecs = 1
stopwaitsecs = 5
redirect_stderr = true
stdout_logfile = %(here)s/log/worker.log
"""

ENV = """\
# Secrets of the shop. Not in version control.
SESSION_KEY={session}
ADMIN_TOKEN={admin}
PAYMENT_TOKEN="test_{payment}"
"""


class InstallError(Exception):
    """The shop cannot be installed there; the message says why."""


def install(folder: Path, url: str = "") -> int:
    """Install the shop into `folder`, which is made when missing, and return its port.

    Args:
        url: of an empty PostgreSQL database; the shop's is a SQLite file when there is none.

    Raises:
        InstallError: the folder holds something already, or its path is too long for a socket.
    """
    folder = folder.resolve()
    if len(os.fsencode(folder / "run" / "supervisor.sock")) > LONGEST_SOCKET_PATH:
        raise InstallError(f"{folder} is too long a path for a socket in it; choose a shorter one.")
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise InstallError(f"{folder} is not empty; choose another folder.")
    for part in ("app", "templates", "static", "config"):
        shutil.copytree(SOURCE / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("data", "log", "run", "uploads"):
        (folder / part).mkdir()
    (folder / "static" / "icon.svg").symlink_to("logo.svg")
    (folder / "static" / "touch-icon.svg").hardlink_to(folder / "static" / "logo.svg")
    mark_release(folder / "app", VERSION)
    port = free_port()
    settings = folder / "config" / "settings.toml"
    settings.write_text(settings.read_text(encoding="utf-8").replace("port = 8000", f"port = {port}"), encoding="utf-8")
    text = ENV.format(session=secrets.token_hex(16), admin=secrets.token_hex(16), payment=secrets.token_hex(12))
    text += f"DATABASE_URL={url}\n" if url else ""
    (folder / ".env").write_text(text, encoding="utf-8")
    (folder / ".env").chmod(0o600)
    # A "%" in the interpreter's path would be read as the start of an expansion.
    conf = SUPERVISORD_CONF.format(python=sys.executable.replace("%", "%%"))
    (folder / "supervisord.conf").write_text(conf, encoding="utf-8")
    seed(folder, url)
    return port


def mark_release(path: Path, version: str) -> None:
    """Write the version into an extended attribute, as some deployment tools do."""
    if hasattr(os, "setxattr"):
        with contextlib.suppress(OSError):  # not every file system has them
            os.setxattr(path, "user.release", version.encode())


def free_port() -> int:
    """Return a port that nobody listens on, below the range from which the system lends its own."""
    for port in random.sample(range(20_000, 32_000), 200):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise InstallError("There is no free port between 20000 and 32000.")


def seed(folder: Path, url: str) -> None:
    """Make the database and the pictures: the same rows every time, and a ledger that adds up to 0."""
    dice = random.Random(SEED)
    place = url or folder / "data" / "shop.db"
    with database.opened(place) as connection:
        connection.run(database.schema(place))
        with database.transaction(connection):
            products = [_product(dice, number, folder / "uploads") for number in range(1, PRODUCTS + 1)]
            connection.executemany("INSERT INTO products VALUES (?, ?, ?, ?, ?, ?, ?)", products)
            customers = [_customer(dice, number) for number in range(1, CUSTOMERS + 1)]
            connection.executemany("INSERT INTO customers VALUES (?, ?, ?, ?)", customers)
            for order in range(1, ORDERS + 1):
                lines = [(p[0], dice.randint(1, 3), p[4]) for p in dice.sample(products, dice.randint(1, 3))]
                total = sum(quantity * price for _, quantity, price in lines)
                at = 1_717_200_000 + order * 1_700
                connection.execute(
                    "INSERT INTO orders VALUES (?, ?, ?, 'shipped', ?, ?)",
                    (order, dice.randint(1, CUSTOMERS), total, at, at + 900),
                )
                connection.executemany(
                    "INSERT INTO order_lines VALUES (?, ?, ?, ?)", [(order, *line) for line in lines]
                )
                checkout.book(connection, order, "receivable", "revenue", total)
                checkout.book(connection, order, "bank", "receivable", total)
            connection.created()


def _product(dice: random.Random, number: int, uploads: Path) -> tuple[int, str, str, str, int, int, str]:
    material = ("Cast-iron", "Glass", "Porcelain", "Copper", "Clay", "Steel")[number % 6]
    thing = ("teapot", "kettle", "cup", "strainer")[number % 4]
    slug = f"{material}-{thing}-{number}".lower()
    picture = uploads / f"{slug}.png"
    picture.write_bytes(png(dice.randbytes(3), dice.randbytes(3)))
    text = f"A {material.lower()} {thing}, number {number} of our range. It pours, and it does not drip."
    return number, slug, f"{material} {thing} No. {number}", text, dice.randint(300, 9_000), 5_000, picture.name


def _customer(dice: random.Random, number: int) -> tuple[int, str, str, str]:
    name = f"{dice.choice(('Kim', 'Lee', 'Ada', 'Noor', 'Ivo', 'Mei'))} {dice.choice('ABCDEFGHJKLMNOPRSTVW')}."
    return number, name, f"customer{number}@example.org", f"+49 30 {dice.randint(1_000_000, 9_999_999)}"


def png(start: bytes, end: bytes, size: int = 64) -> bytes:
    """Return a square picture that fades from one colour to another.

    Args:
        start, end: three bytes each: red, green, blue.
        size: width and height in pixels.
    """
    line = bytes(a + (b - a) * x // (size - 1) for x in range(size) for a, b in zip(start, end, strict=True))
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress((b"\0" + line) * size)),
        (b"IEND", b""),
    )
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python install.py FOLDER [DATABASE_URL]")
    try:
        print(f"The shop will answer at http://127.0.0.1:{install(Path(sys.argv[1]), *sys.argv[2:])}/")
    except InstallError as problem:
        sys.exit(str(problem))
