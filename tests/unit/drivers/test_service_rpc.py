"""The XML-RPC that is spoken with supervisord, against the standard library's."""

from __future__ import annotations

import socket
import threading
import xmlrpc.client
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rfs.production.rollback.drivers.service.supervisor_rpc import AbsentError, RefusedError, Rpc, decode, encode
from rfs.production.rollback.errors import RollbackError
from rfs.production.rollback.http_request import parse_url

# XML has no way to write most control characters, and reads a carriage return as a line feed.
texts = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\ufffe\uffff"))
numbers = st.integers(-(2**31), 2**31 - 1)
values = st.recursive(
    texts | numbers | st.booleans(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=50)
@given(values)
def test_it_reads_what_the_standard_library_writes(value):
    assert decode(xmlrpc.client.dumps((value,), methodresponse=True).encode()) == value


@settings(max_examples=50)
@given(st.lists(texts | st.booleans(), max_size=4))
def test_the_standard_library_reads_what_it_writes(arguments):
    assert xmlrpc.client.loads(encode("stopProcess", arguments)) == (tuple(arguments), "supervisor.stopProcess")


def test_a_value_without_a_type_is_text():
    assert (
        decode(b"<methodResponse><params><param><value>a &lt; b</value></param></params></methodResponse>") == "a < b"
    )


def test_a_fault_is_raised():
    with pytest.raises(RefusedError, match="BAD_NAME: web") as raised:
        decode(xmlrpc.client.dumps(xmlrpc.client.Fault(10, "BAD_NAME: web")).encode())
    assert raised.value.code == 10


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"<html></html>",
        b"<methodResponse></methodResponse>",
        b"<methodResponse><int>soon</int></methodResponse>",
        b"<methodResponse><struct><name>odd</name></struct></methodResponse>",
        b'<!DOCTYPE a [<!ENTITY b "c">]><methodResponse><string>&b;</string></methodResponse>',
    ],
)
def test_what_is_no_answer_is_refused(body):
    with pytest.raises(ValueError, match=r"XML-RPC|nothing that supervisord sends|invalid literal|shorter"):
        decode(body)


@settings(max_examples=50)
@given(st.binary(max_size=200))
def test_noise_is_refused(noise):
    with pytest.raises(ValueError, match="no XML-RPC"):
        decode(noise)


@contextmanager
def server(answer):
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    with listener:
        yield Rpc(parse_url(f"http://kim:hunter2@127.0.0.1:{listener.getsockname()[1]}"), "web")
        thread.join()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "broke off"),
        (b"SSH-2.0-OpenSSH\r\n", "broke off"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 99\r\n\r\nhalf", "broke off"),
        (b"HTTP/1.0 200 OK\r\n\r\n<html></html>", "not supervisor"),
        (b"HTTP/1.0 401 Unauthorized\r\n\r\n", "a user and a password"),
        (b"HTTP/1.0 404 Not Found\r\n\r\n", "status 404"),
        (b"HTTP/1.0 200 OK\r\n\r\n" + xmlrpc.client.dumps(xmlrpc.client.Fault(6, "S")).encode(), "shutting down"),
        (b"HTTP/1.0 200 OK\r\n\r\n" + xmlrpc.client.dumps(xmlrpc.client.Fault(1, "U")).encode(), "does not know"),
    ],
)
def test_whoever_else_answers_is_told_of(answer, why):
    with server(answer) as rpc, pytest.raises(RollbackError, match=why) as raised:
        rpc.call("getState")
    assert raised.value.key == "service.unreachable"
    assert "hunter2" not in str(raised.value)


def test_nobody_is_absent(tmp_path):
    with pytest.raises(AbsentError):
        Rpc(parse_url(f"unix://{tmp_path}/none.sock"), "web").call("getState")
