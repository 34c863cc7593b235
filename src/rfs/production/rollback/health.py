"""Health checks: is the application well? HTTP, TCP or a command, tried until it is or until patience ends.

A check counts as passed after `success_threshold` tries in a row that succeeded, and as
failed at the first failure after `retries` of them were forgiven. Each try is cut at its
`timeout`, also when the other side sends a byte now and then. What is reported never
holds credentials, headers or what the application answered.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from rfs.production.rollback.driver import Pulse
from rfs.production.rollback.duration import Duration, parse_duration
from rfs.production.rollback.errors import RollbackError, TimedOutError
from rfs.production.rollback.model import CheckOutcome, HealthReport
from rfs.production.rollback.secret import resolve_secret
from rfs.production.rollback.settings import Source

if TYPE_CHECKING:
    from rfs.production.rollback.http_request import Address, Response

_NAP = 0.1
_SHOWN = 200
_STATUS = re.compile(r"([1-5]\d\d)(?:\s*-\s*([1-5]\d\d))?", re.ASCII)
_SECRETS = ("env:", "file:", "cmd:")
_HTTP_KEYS = ("status", "body", "body_regex", "headers", "max_latency", "tls_verify")
_DURATIONS = ("max_latency", "interval", "timeout", "initial_delay")


class Check(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One `[[health]]` table. Durations as `duration.parse_duration` reads them.

    Attributes:
        name: what it is called in reports.
        http: a URL that is asked with GET; redirects are not followed. It and the values of
            `headers` may be secrets: "env:NAME", "file:PATH", "cmd:…".
        tcp: "host:port" that must take a connection.
        command: program and arguments, run in the folder of rfs.toml without a shell; must exit with 0.
        required: a failure gates (a rollback turns back); otherwise it only warns.
        status: of an HTTP answer: a number, a range such as "200-299", or a list of these.
        body: text that the first MiB of the HTTP answer must contain.
        body_regex: regular expression that must be found in it.
        headers: sent with the HTTP request.
        max_latency: the HTTP answer must be complete within it.
        tls_verify: whether an https certificate must be valid.
        retries: how many failed tries are forgiven.
        interval: between two tries.
        timeout: of one try.
        success_threshold: how many tries in a row must succeed.
        initial_delay: before the first try.
    """

    name: str
    http: str | None = None
    tcp: str | None = None
    command: tuple[str, ...] | None = None
    required: bool = True
    status: int | str | tuple[int | str, ...] = "200-399"
    body: str | None = None
    body_regex: str | None = None
    headers: dict[str, str] = {}
    max_latency: Duration | None = None
    tls_verify: bool = True
    retries: int = 30
    interval: Duration = 1
    timeout: Duration = 5
    success_threshold: int = 1
    initial_delay: Duration = 0

    def __post_init__(self) -> None:
        kinds = [key for key in ("http", "tcp", "command") if getattr(self, key) is not None]
        if len(kinds) != 1:
            why = f"the check {self.name!r} takes exactly one of http, tcp and command"
            raise ValueError(why)
        if kinds != ["http"]:
            self._refuse_http_keys()
        for key in _DURATIONS:
            value = getattr(self, key)
            if value is not None:
                parse_duration(value)
        if parse_duration(self.timeout) == 0:
            raise ValueError("timeout must be longer than nothing")
        if self.retries < 0 or self.success_threshold < 1:
            raise ValueError("retries is at least 0 and success_threshold at least 1")
        self._check_target()

    def _refuse_http_keys(self) -> None:
        defaults = {field.name: field.default for field in msgspec.structs.fields(self)}
        defaults["headers"] = {}
        for key in _HTTP_KEYS:
            if getattr(self, key) != defaults[key]:
                why = f"{key} belongs to an http check; {self.name!r} is none"
                raise ValueError(why)

    def _check_target(self) -> None:
        if self.http is not None:
            if not self.http.startswith(_SECRETS):
                _address(self.http)
            _ranges(self.status)
            if self.body_regex is not None:
                _regex(self.body_regex)
        if self.tcp is not None:
            _host_and_port(self.tcp)
        if self.command is not None and (not self.command or not self.command[0]):
            raise ValueError("command takes a list: a program and its arguments")


def parse_checks(tables: Sequence[Mapping[str, Any]], path: str) -> list[Check]:
    """Return the checks that the `[[health]]` tables describe.

    Args:
        tables: as they stand in rfs.toml.
        path: of rfs.toml, for complaints.

    Raises:
        UsageError: a key is unknown or missing, a value is not usable, or two have one name.
    """
    source = Source(path)
    checks = [source.convert(table, Check, ("health", number)) for number, table in enumerate(tables)]
    seen: set[str] = set()
    for number, check in enumerate(checks):
        if check.name in seen:
            source.bad(("health", number, "name"), f"there is another check called {check.name}")
        seen.add(check.name)
    return checks


def run_checks(checks: Sequence[Check], pulse: Pulse, *, home: str = ".", once: bool = False) -> HealthReport:
    """Run the checks, one after the other, and return what came of them.

    Args:
        pulse: when its time is up, the check under way and those after it count as failed.
        home: folder that commands run in.
        once: one try each, without delays: to look at the present, not to wait for a start.

    Raises:
        InterruptedByUserError: the user said stop.
    """
    return HealthReport(tuple(_Run(check, pulse, home, once).outcome() for check in checks))


class _Run:
    """One check being tried."""

    def __init__(self, check: Check, pulse: Pulse, home: str, once: bool) -> None:
        self.check = check
        self.pulse = pulse
        self.home = home
        self.delay = 0.0 if once else parse_duration(check.initial_delay)
        self.interval = parse_duration(check.interval)
        self.retries = 0 if once else check.retries
        self.threshold = 1 if once else check.success_threshold
        self.attempts = 0
        self.detail = "not tried"

    def outcome(self) -> CheckOutcome:
        began = time.monotonic()
        try:
            healthy = self._passes()
        except TimedOutError:
            healthy = False
            self.detail += "; then there was no time left"
        seconds = round(time.monotonic() - began, 3)
        return CheckOutcome(self.check.name, healthy, self.check.required, self.detail, seconds, self.attempts)

    def _passes(self) -> bool:
        self._sleep(self.delay)
        failures = successes = 0
        while True:
            self.attempts += 1
            passed, self.detail = self._try()
            self.pulse.tick(items=1)
            if passed:
                successes += 1
                if successes >= self.threshold:
                    return True
            else:
                successes = 0
                failures += 1
                if failures > self.retries:
                    return False
            self._sleep(self.interval)

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        self.pulse.tick()
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, _NAP))  # the interval asked for, in naps short enough to be interrupted
            self.pulse.tick()

    def _try(self) -> tuple[bool, str]:
        timeout = parse_duration(self.check.timeout)
        timeout = max(0.001, min(timeout, self.pulse.remaining()))
        if self.check.http is not None:
            return _try_http(self.check, self.check.http, timeout, self.home)
        if self.check.tcp is not None:
            return _try_tcp(self.check.tcp, timeout)
        return _try_command(self.check.command or (), timeout, self.home, self.pulse)


def _try_http(check: Check, url: str, timeout: float, home: str) -> tuple[bool, str]:
    from rfs.production.rollback.http_request import RequestError, request

    try:
        address = _address(resolve_secret(url, home))
        headers = {name: resolve_secret(value, home) for name, value in check.headers.items()}
    except (RollbackError, ValueError) as error:
        return False, str(error).rstrip(".")
    try:
        response = request(address, timeout=timeout, headers=headers, tls_verify=check.tls_verify)
    except RequestError as error:
        return False, f"{address}: {error}"
    complaint = _complaint(check, response)
    return not complaint, f"{address} answered {response.status} in {response.seconds * 1000:.0f} ms{complaint}"


def _complaint(check: Check, response: Response) -> str:
    if not any(low <= response.status <= high for low, high in _ranges(check.status)):
        return f", wanted {_shown(check.status)}"
    text = response.body.decode(errors="replace")
    if check.body is not None and check.body not in text:
        return f", without {check.body!r} in its body"
    if check.body_regex is not None and not _regex(check.body_regex).search(text):
        return f", and its body does not match {check.body_regex!r}"
    if check.max_latency is not None and response.seconds > parse_duration(check.max_latency):
        return f", slower than {check.max_latency}"
    return ""


def _try_tcp(target: str, timeout: float) -> tuple[bool, str]:
    from rfs.production.rollback.http_request import RequestError, reachable

    host, port = _host_and_port(target)
    try:
        reachable(host, port, timeout=timeout)
    except RequestError as error:
        return False, f"{target}: {error}"
    return True, f"{target} takes connections"


def _try_command(command: Sequence[str], timeout: float, home: str, pulse: Pulse) -> tuple[bool, str]:
    from rfs.production.rollback.http_request import mask
    from rfs.production.rollback.process import run

    try:
        ended = run(command, cwd=home, timeout=timeout, pulse=pulse)
    except RollbackError as error:
        if error.key not in ("command.missing", "command.slow"):
            raise
        return False, str(error).rstrip(".")
    last = mask(ended.output.rpartition("\n")[2])[:_SHOWN]
    return ended.status == 0, f"{command[0]} ended with {ended.reason}" + (f": {last}" if last else "")


def _address(url: str) -> Address:
    from rfs.production.rollback.http_request import parse_url

    address = parse_url(url)
    if address.scheme == "unix":
        raise ValueError("an http check takes http:// or https://")
    return address


def _ranges(status: int | str | Sequence[int | str]) -> list[tuple[int, int]]:
    words = [status] if isinstance(status, int | str) else list(status)
    ranges: list[tuple[int, int]] = []
    for word in words:
        match = _STATUS.fullmatch(str(word).strip())
        if match is None:
            why = f'{word!r} is no status; write 200, "200-299" or a list of these'
            raise ValueError(why)
        ranges.append((int(match[1]), int(match[2] or match[1])))
    if not ranges:
        raise ValueError("status names none that would do")
    return ranges


def _shown(status: int | str | Sequence[int | str]) -> str:
    return str(status) if isinstance(status, int | str) else " or ".join(str(word) for word in status)


def _regex(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        why = f"body_regex {pattern!r} is no regular expression: {error}"
        raise ValueError(why) from None


def _host_and_port(target: str) -> tuple[str, int]:
    host, _, port = target.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        why = f'{target!r} is no address; write "host:port"'
        raise ValueError(why)
    return host.removeprefix("[").removesuffix("]"), int(port)
