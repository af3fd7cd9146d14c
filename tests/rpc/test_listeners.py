"""What `--listen` means, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from limiter.domain.errors import InvalidArgument
from limiter.rpc.listeners import Listener, TlsFiles, parse_listener

DEFAULT_TLS = TlsFiles(Path("/tls/cert.pem"), Path("/tls/key.pem"))
TOKEN = "a-token-" + "that-is-long-enough"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:50051", Listener("127.0.0.1:50051")),
        ("[::1]:0", Listener("[::1]:0")),
        ("localhost:50051,trusted", Listener("localhost:50051", trusted=True)),
        ("unix:/run/limiter.sock,trusted", Listener("unix:/run/limiter.sock", trusted=True)),
        ("unix:/run/a.sock,mode=0666", Listener("unix:/run/a.sock", socket_mode=0o666)),
        ("unix:/run/a.sock,services=admin", Listener("unix:/run/a.sock", services=frozenset({"admin"}))),
        (
            "unix:/run/both.sock,services=limiter+admin",
            Listener("unix:/run/both.sock", services=frozenset({"limiter", "admin"})),
        ),
        ("0.0.0.0:50051,tls", Listener("0.0.0.0:50051", tls=DEFAULT_TLS)),
        (
            "0.0.0.0:50051,tls-client-ca=/tls/ca.pem",
            Listener("0.0.0.0:50051", tls=TlsFiles(DEFAULT_TLS.certificate, DEFAULT_TLS.key, Path("/tls/ca.pem"))),
        ),
        (
            "0.0.0.0:50051,tls-cert=/a.pem,tls-key=/b.pem",
            Listener("0.0.0.0:50051", tls=TlsFiles(Path("/a.pem"), Path("/b.pem"))),
        ),
    ],
)
def test_a_listener_is_read_as_written(text: str, expected: Listener) -> None:
    assert parse_listener(text, tls=DEFAULT_TLS) == expected


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "write ADDRESS"),
        ("50051", "HOST:PORT"),
        ("127.0.0.1", "HOST:PORT"),
        ("127.0.0.1:http", "HOST:PORT"),
        ("::1:50051", "HOST:PORT"),
        ("127.0.0.1:65536", "a port is 0 to 65535"),
        ("[::zz]:1", "HOST:PORT"),
        ("[1:2]:1", "IPv6 address in the brackets"),
        ("unix:limiter.sock", "absolute path"),
        ("unix:/" + "a" * 103, "at most 103 bytes"),
        ("unix:/a.sock,tls-cert=/c.pem,tls-key=/k.pem", "TLS is for TCP"),
        ("127.0.0.1:1,mode=0600", "only a Unix socket has a mode"),
        ("unix:/a.sock,mode=rw", "octal"),
        ("127.0.0.1:1,trust", "'trust' is not valid"),
        ("127.0.0.1:1,trusted=yes", "'trusted=yes' is not valid"),
        ("127.0.0.1:1,services=", "'services=' is not valid"),
        ("127.0.0.1:1,trusted,trusted", "name trusted once"),
        ("127.0.0.1:1,services=limiter+oracle", "choose from limiter, envoy, admin"),
        ("127.0.0.1:1,services=admin", "admin over TCP needs token-file=PATH or tls-client-ca=PATH"),
        ("127.0.0.1:1,tls", "TLS needs a certificate and a key"),
        ("127.0.0.1:1,tls-cert=/a.pem", "TLS needs a certificate and a key"),
        ("127.0.0.1:1,token-file=/nowhere/token", "name a file that can be read"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_a_remedy(text: str, complaint: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_listener(text)

    assert complaint in str(caught.value)


def test_the_token_is_read_from_its_file_and_never_shown(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")

    listener = parse_listener(f"127.0.0.1:1,services=admin,token-file={tmp_path}/token")

    assert listener.token == TOKEN
    assert TOKEN not in repr(listener)


@pytest.mark.parametrize("content", ["", "short", "with a space in the middle", "ümläute-are-not-printable-ascii"])
def test_a_token_that_cannot_be_sent_or_is_short_is_refused_without_showing_it(tmp_path: Path, content: str) -> None:
    (tmp_path / "token").write_text(content)

    with pytest.raises(InvalidArgument) as caught:
        parse_listener(f"127.0.0.1:1,token-file={tmp_path}/token")

    assert not content or content not in str(caught.value)


def test_a_common_token_is_for_tcp_where_no_file_names_another() -> None:
    assert parse_listener("127.0.0.1:1", token=TOKEN).token == TOKEN
    assert parse_listener("unix:/a.sock", token=TOKEN).token is None


def test_a_listener_that_others_can_reach_comes_with_cautions() -> None:
    assert Listener("127.0.0.1:1", trusted=True).cautions() == ()
    assert Listener("[::1]:1").cautions() == Listener("localhost:1").cautions() == ()
    assert Listener("unix:/a.sock", trusted=True).cautions() == ()
    assert len(Listener("0.0.0.0:1").cautions()) == 1
    assert len(Listener("0.0.0.0:1", trusted=True).cautions()) == 2
    assert Listener("0.0.0.0:1", trusted=True, tls=DEFAULT_TLS, token=TOKEN).cautions() == ()
