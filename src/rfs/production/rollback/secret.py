"""Secrets that rfs.toml names instead of holding them: env:NAME, file:PATH, cmd:PROGRAM."""

from __future__ import annotations

import os

from rfs.production.rollback.errors import RollbackError, UsageError

SECRET_SECONDS = 30


def absolute(path: str, home: str) -> str:
    """Return a path of rfs.toml as an absolute one; `home` is the folder of rfs.toml."""
    return os.path.normpath(os.path.join(home, os.path.expanduser(path)))


def resolve_secret(value: str, home: str) -> str:
    """Return what a value of rfs.toml stands for; only ever called when it is needed.

    Args:
        value: "env:NAME", "file:PATH", "cmd:PROGRAM ARGUMENTS" (run without a shell), or the text itself.
        home: the folder that a relative PATH and the command start from.

    Raises:
        UsageError: it cannot be had. The text never holds the secret.
    """
    scheme, _, rest = value.partition(":")
    if scheme == "env":
        if rest not in os.environ:
            raise UsageError("secret.unavailable", source=value, why="the variable is not set")
        return os.environ[rest]
    if scheme == "file":
        try:
            with open(absolute(rest, home), encoding="utf-8") as file:
                return file.read().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is not UTF-8"
            raise UsageError("secret.unavailable", source=value, why=why) from error
    if scheme == "cmd":
        return _secret_of_command(rest, home)
    return value


def _secret_of_command(command: str, home: str) -> str:
    import shlex
    import subprocess

    shown = f"cmd:{command.split(' ', 1)[0]} …"  # an argument may be a secret itself
    try:
        words = shlex.split(command)
        done = subprocess.run(
            words, cwd=home, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECRET_SECONDS, check=False
        )
    except (OSError, ValueError, IndexError) as error:
        why = getattr(error, "strerror", None) or "it is not a command"
        raise UsageError("secret.unavailable", source=shown, why=why) from error
    except subprocess.TimeoutExpired as error:
        raise RollbackError("command.slow", command=shown, seconds=SECRET_SECONDS) from error
    if done.returncode != 0:
        raise UsageError("secret.unavailable", source=shown, why=f"it ended with {done.returncode}")
    return done.stdout.decode(errors="replace").rstrip("\r\n")
