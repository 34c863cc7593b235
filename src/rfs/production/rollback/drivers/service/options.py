"""The keys of a service component in rfs.toml."""

from __future__ import annotations

import math
import re
from typing import Literal

import msgspec

from rfs.production.rollback.duration import Duration, parse_duration

_LATER = ("compose",)
_KNOWN = ("supervisor", "systemd", "command")
_ONLY = {
    "config": "supervisor",
    "url": "supervisor",
    "scope": "systemd",
    "start": "command",
    "stop": "command",
    "status": "command",
    "pidfile": "command",
}
_USUAL_SECONDS = 60.0
_UNIT = re.compile(r"[\w:.\\@*?\[\]!-]+", re.ASCII)


class ServiceOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of a service component. Durations as `duration.parse_duration` reads them.

    Attributes:
        manager: "supervisor", "systemd" or "command".
        units: names of what it runs. For systemd "shop-web" (which is "shop-web.service"), "shop.socket",
            "worker@1", or with wildcards ("worker@*"). For supervisor "program", "group:program" or with wildcards
            ("shop-*", "workers:*"); when left out, all that its configuration defines. For command,
            one run of each command for each unit, with "{unit}" replaced; when left out, the component
            is one unit of its own name.
        config: supervisord.conf; it, and the included files that define the units, are captured.
        scope: for systemd, "system", or "user" for the own systemd of the user who runs rfs.
        url: where supervisor listens: "unix:///path" or "http://user:password@host:port", or a secret
            ("env:NAME", "file:PATH", "cmd:…"); when left out, what `config` says.
        start: command that starts a unit in the background and ends with 0.
        stop: command that stops a unit.
        status: command that ends with 0 when a unit runs, and with 3 or another status when it does not.
        pidfile: where a command's unit writes its process id; with it, its children are waited for too.
        stop_timeout: until all units and their processes are gone; when left out, a minute, and for systemd
            what the units themselves say.
        start_timeout: until all units run; likewise.
    """

    manager: str
    units: tuple[str, ...] = ()
    config: str | None = None
    url: str | None = None
    scope: Literal["system", "user"] | None = None
    start: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()
    status: tuple[str, ...] = ()
    pidfile: str | None = None
    stop_timeout: Duration | None = None
    start_timeout: Duration | None = None

    def __post_init__(self) -> None:
        known = ", ".join(f'"{name}"' for name in _KNOWN)
        if self.manager in _LATER:
            why = f'manager "{self.manager}" comes with a later release; now there are {known}'
            raise ValueError(why)
        if self.manager not in _KNOWN:
            why = f'manager "{self.manager}" is unknown; there are {known}'
            raise ValueError(why)
        for value in (self.stop_timeout, self.start_timeout):
            if value is not None and parse_duration(value) == 0:
                raise ValueError("stop_timeout and start_timeout must be longer than nothing")
        if "" in self.units or len(set(self.units)) != len(self.units):
            raise ValueError("units names each unit once")
        for key, manager in _ONLY.items():
            if getattr(self, key) and self.manager != manager:
                why = f'{key} belongs to manager = "{manager}"'
                raise ValueError(why)
        {"supervisor": self._check_supervisor, "systemd": self._check_systemd, "command": self._check_command}[
            self.manager
        ]()

    @property
    def stop_seconds(self) -> float:
        """How long a stop may take by these options; systemd knows by itself when it has been long enough."""
        return self._seconds(self.stop_timeout)

    @property
    def start_seconds(self) -> float:
        """How long a start may take by these options."""
        return self._seconds(self.start_timeout)

    def _seconds(self, value: Duration | None) -> float:
        if value is not None:
            return parse_duration(value)
        return math.inf if self.manager == "systemd" else _USUAL_SECONDS

    def _check_supervisor(self) -> None:
        if self.config is None and self.url is None:
            raise ValueError('supervisor needs config = "supervisord.conf", or url')
        if self.url is not None and not self.url.startswith(("env:", "file:", "cmd:")):
            from rfs.production.rollback.http_request import parse_url  # few give a url; 5 ms for the others

            parse_url(self.url)

    def _check_systemd(self) -> None:
        if not self.units:
            raise ValueError('systemd needs units = ["shop-web"]')
        for unit in self.units:
            if not _UNIT.fullmatch(unit) or unit.startswith("-"):
                why = f"{unit!r} is no name of a unit; systemd-escape(1) makes one"
                raise ValueError(why)
            if unit.partition("@")[2].startswith(".") or unit.endswith("@"):
                why = f'{unit!r} is a template; name its instances, or all of them: "{unit.partition("@")[0]}@*"'
                raise ValueError(why)

    def _check_command(self) -> None:
        for key in ("start", "stop", "status"):
            command = getattr(self, key)
            if not command or not command[0]:
                why = f'manager "command" needs {key} = ["program", "argument"]'
                raise ValueError(why)
            if len(self.units) > 1 and not any("{unit}" in word for word in command):
                why = f'{key} must hold "{{unit}}", as there are several units'
                raise ValueError(why)
