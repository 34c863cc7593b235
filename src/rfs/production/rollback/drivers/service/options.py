"""The keys of a service component in rfs.toml."""

from __future__ import annotations

import msgspec

from rfs.production.rollback.duration import Duration, parse_duration

_LATER = ("systemd", "compose")
_KNOWN = ("supervisor", "command")


class ServiceOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of a service component. Durations as `duration.parse_duration` reads them.

    Attributes:
        manager: "supervisor" or "command".
        units: names of what it runs. For supervisor "program", "group:program" or with wildcards
            ("shop-*", "workers:*"); when left out, all that its configuration defines. For command,
            one run of each command for each unit, with "{unit}" replaced; when left out, the component
            is one unit of its own name.
        config: supervisord.conf; it, and the included files that define the units, are captured.
        url: where supervisor listens: "unix:///path" or "http://user:password@host:port", or a secret
            ("env:NAME", "file:PATH", "cmd:…"); when left out, what `config` says.
        start: command that starts a unit in the background and ends with 0.
        stop: command that stops a unit.
        status: command that ends with 0 when a unit runs, and with 3 or another status when it does not.
        pidfile: where a command's unit writes its process id; with it, its children are waited for too.
        stop_timeout: until all units and their processes are gone.
        start_timeout: until all units run.
    """

    manager: str
    units: tuple[str, ...] = ()
    config: str | None = None
    url: str | None = None
    start: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()
    status: tuple[str, ...] = ()
    pidfile: str | None = None
    stop_timeout: Duration = 60
    start_timeout: Duration = 60

    def __post_init__(self) -> None:
        if self.manager in _LATER:
            why = f'manager "{self.manager}" comes with a later release; now there are "supervisor" and "command"'
            raise ValueError(why)
        if self.manager not in _KNOWN:
            why = f'manager "{self.manager}" is unknown; there are "supervisor" and "command"'
            raise ValueError(why)
        for value in (self.stop_timeout, self.start_timeout):
            if parse_duration(value) == 0:
                raise ValueError("stop_timeout and start_timeout must be longer than nothing")
        if "" in self.units or len(set(self.units)) != len(self.units):
            raise ValueError("units names each unit once")
        if self.manager == "supervisor":
            self._check_supervisor()
        else:
            self._check_command()

    def _check_supervisor(self) -> None:
        if self.config is None and self.url is None:
            raise ValueError('supervisor needs config = "supervisord.conf", or url')
        if self.url is not None and not self.url.startswith(("env:", "file:", "cmd:")):
            from rfs.production.rollback.http_request import parse_url  # few give a url; 5 ms for the others

            parse_url(self.url)
        for key in ("start", "stop", "status", "pidfile"):
            if getattr(self, key):
                why = f'{key} belongs to manager = "command"'
                raise ValueError(why)

    def _check_command(self) -> None:
        for key in ("config", "url"):
            if getattr(self, key) is not None:
                why = f'{key} belongs to manager = "supervisor"'
                raise ValueError(why)
        for key in ("start", "stop", "status"):
            command = getattr(self, key)
            if not command or not command[0]:
                why = f'manager "command" needs {key} = ["program", "argument"]'
                raise ValueError(why)
            if len(self.units) > 1 and not any("{unit}" in word for word in command):
                why = f'{key} must hold "{{unit}}", as there are several units'
                raise ValueError(why)
