"""The options of a service component, and what a supervisord.conf says."""

from __future__ import annotations

import math

import msgspec
import pytest

from rfs.production.rollback.drivers.service import ServiceDriver
from rfs.production.rollback.drivers.service.options import ServiceOptions
from rfs.production.rollback.drivers.service.supervisor_config import read_config
from rfs.production.rollback.errors import UsageError
from rfs.testing import component

HASHED = "[unix_http_server]\nfile=/run/s.sock\nusername=kim\npassword={SHA}00\n"
COMMANDS = {"start": ["up"], "stop": ["down"], "status": ["up?"]}


@pytest.mark.parametrize(
    "table",
    [
        {"manager": "supervisor", "config": "supervisord.conf"},
        {"manager": "supervisor", "url": "unix:///run/s.sock", "units": ["a", "b:*"], "stop_timeout": "10s"},
        {"manager": "supervisor", "url": "env:SUPERVISOR"},
        {"manager": "systemd", "units": ["web", "worker@*", "a-b@c:d.service", "x\\x2dy.timer"], "scope": "user"},
        {"manager": "command", **COMMANDS, "pidfile": "run/web.pid", "start_timeout": 5},
        {"manager": "command", "units": ["a", "b"], **{key: [*value, "{unit}"] for key, value in COMMANDS.items()}},
    ],
)
def test_good_options(table):
    assert msgspec.convert(table, ServiceOptions).manager == table["manager"]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({}, "manager"),
        ({"manager": "systemd"}, "needs units"),
        ({"manager": "systemd", "units": ["web; reboot"]}, "no name of a unit"),
        ({"manager": "systemd", "units": ["--now"]}, "no name of a unit"),
        ({"manager": "systemd", "units": ["worker@.service"]}, "worker@*"),
        ({"manager": "systemd", "units": ["web"], "scope": "session"}, "scope"),
        ({"manager": "systemd", "units": ["web"], "pidfile": "x"}, "pidfile belongs to"),
        ({"manager": "supervisor", "config": "a", "scope": "user"}, "scope belongs to"),
        ({"manager": "compose"}, "later release"),
        ({"manager": "runit"}, "unknown"),
        ({"manager": "supervisor"}, "config"),
        ({"manager": "supervisor", "url": "http://kim:hunter2@a:port"}, "not a URL"),
        ({"manager": "supervisor", "config": "a", "start": ["up"]}, "start belongs to"),
        ({"manager": "supervisor", "config": "a", "units": ["web", "web"]}, "once"),
        ({"manager": "supervisor", "config": "a", "units": [""]}, "once"),
        ({"manager": "supervisor", "config": "a", "unit": ["web"]}, "unit"),
        ({"manager": "command", **COMMANDS, "config": "a"}, "config belongs to"),
        ({"manager": "command", "start": ["up"], "stop": ["down"]}, "needs status"),
        ({"manager": "command", **COMMANDS, "start": []}, "needs start"),
        ({"manager": "command", **COMMANDS, "units": ["a", "b"]}, "{unit}"),
        ({"manager": "command", **COMMANDS, "stop_timeout": "soon"}, "duration"),
        ({"manager": "command", **COMMANDS, "start_timeout": 0}, "longer"),
        ({"manager": "command", **COMMANDS, "start": "up now"}, "array"),
    ],
)
def test_bad_options(table, said):
    with pytest.raises(msgspec.ValidationError) as raised:
        msgspec.convert(table, ServiceOptions)
    assert said in str(raised.value)
    assert "hunter2" not in str(raised.value)


def test_how_long_a_stop_may_take():
    def seconds(**table):
        return msgspec.convert(table, ServiceOptions).stop_seconds

    assert seconds(manager="command", **COMMANDS) == 60
    assert seconds(manager="systemd", units=["web"]) == math.inf, "its unit files say it"
    assert seconds(manager="systemd", units=["web"], stop_timeout="2m") == 120


@pytest.fixture
def conf(tmp_path):
    def write(text, name="supervisord.conf"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return str(path)

    return write


def test_groups_by_the_file_that_defines_them(conf):
    main = conf("[include]\nfiles = conf.d/*.conf %(here)s/more/*.ini\n[program:main]\ncommand=x\n")
    one = conf("[program:a]\n[program:b]\n[fcgi-program:f]\n[eventlistener:e]\n", "conf.d/one.conf")
    two = conf("[group:pair]\nprograms = a, b\n", "more/two.ini")
    broken = conf("command=x\n", "conf.d/broken.conf")
    conf("[program:z]\n", "conf.d/not-included.txt")
    config = read_config(main)
    assert config.groups == {main: ("main",), one: ("e", "f", "pair"), two: ("pair",), broken: None}
    assert config.all_groups() == ["e", "f", "main", "pair"]
    assert config.folders == tuple(sorted([one.removesuffix("/one.conf"), two.removesuffix("/two.ini")]))


def test_a_configuration_that_is_missing_or_broken_defines_nothing(conf, tmp_path):
    missing = str(tmp_path / "none.conf")
    assert read_config(missing).groups == {missing: ()}
    broken = conf("no section\n")
    assert read_config(broken).groups == {broken: None}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[unix_http_server]\nfile=%(here)s/s.sock ; here\n", ("unix://HERE/s.sock", None, "")),
        ("[unix_http_server]\nfile=/run/s.sock\nusername=kim\npassword=pw\n", ("unix:///run/s.sock", "kim", "pw")),
        ("[inet_http_server]\nport=*:9001\n", ("http://127.0.0.1:9001", None, "")),
        ("[inet_http_server]\nport=9001\n", ("http://127.0.0.1:9001", None, "")),
        ("[inet_http_server]\nport=10.0.0.7:9001\n", ("http://10.0.0.7:9001", None, "")),
        ("[unix_http_server]\nfile=/run/%(ENV_RFS_TEST)s.sock\n", ("unix:///run/it.sock", None, "")),
        (
            HASHED + "[supervisorctl]\nserverurl=unix:///run/s.sock\nusername=kim\npassword=pw\n",
            ("unix:///run/s.sock", "kim", "pw"),
        ),
        (HASHED, ("unix:///run/s.sock", None, "")),
        ("[supervisord]\n", ("", None, "")),
    ],
)
def test_where_supervisor_listens(conf, tmp_path, monkeypatch, text, expected):
    monkeypatch.setenv("RFS_TEST", "it")
    config = read_config(conf(text))
    server, user, password = expected
    assert (config.server, config.user, config.password) == (server.replace("HERE", str(tmp_path)), user, password)


def test_a_name_that_cannot_be_filled_in_is_an_error(conf):
    path = conf("[unix_http_server]\nfile=/run/%(ENV_RFS_TEST_NOT_SET)s.sock\n")
    with pytest.raises(UsageError, match="RFS_TEST_NOT_SET"):
        read_config(path)


def test_a_configuration_that_listens_nowhere_is_an_error(conf, tmp_path):
    conf("[supervisord]\n")
    c = component("service", tmp_path, manager="supervisor", config="supervisord.conf")
    with pytest.raises(UsageError, match="unix_http_server"):
        ServiceDriver().fingerprint(c, rehash=False)
    (finding,) = ServiceDriver().examine(c)
    assert finding.level == "error"
