"""A receiver of webhooks on loopback, as others would write one."""

from __future__ import annotations

import json
import re
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from standardwebhooks import Webhook

SECRET = "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OLD_SECRET = "whsec_" + "C2FVsBQIhrscChlQIMV+b5sSYspob7oD"


@dataclass
class Got:
    """One request."""

    headers: Mapping[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def json(self) -> Any:  # noqa: ANN401 - whatever was sent
        return json.loads(self.body)

    def signed_by(self, secret: str) -> bool:
        """Whether the secret made one of the signatures, at whatever time."""
        at = datetime.fromtimestamp(int(self.headers["webhook-timestamp"]), UTC)
        return Webhook(secret).sign(self.id, at, self.body.decode()) in self.headers["webhook-signature"].split(" ")


@dataclass
class Receiver:
    """Answers with `status`, `headers` and `body`; hangs while `hangs`."""

    url: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    hangs: bool = False
    on_request: Callable[[Got], object] = lambda _: None
    got: list[Got] = field(default_factory=list)
    let_go: threading.Event = field(default_factory=threading.Event)

    @property
    def ids(self) -> list[str]:
        return [one.id for one in self.got]


def as_slack(got: Got) -> tuple[int, bytes]:
    """What an incoming webhook of Slack answers; other markup than `&amp;`, `&lt;` and `&gt;` is a mistake here."""
    message = got.json
    blocks = message.get("blocks", [])
    parts = [part for block in blocks for part in block.get("elements", [block.get("text")])]
    texts = [message.get("text") or "", *(part["text"] for part in parts)]
    mistakes = {
        "invalid_payload": got.headers["content-type"].partition(";")[0] != "application/json",
        "no_text": not texts[0],
        "msg_too_long": len(texts[0]) > 40_000,
        "invalid_blocks": any(part["type"] != "mrkdwn" or not 1 <= len(part["text"]) <= 3_000 for part in parts)
        or any(len(block.get("elements", ())) > 10 for block in blocks)
        or len(blocks) > 50,
        "markup": any(re.search(r"[<>]|&(?!(amp|lt|gt);)", text) for text in texts),
    }
    wrong = next((name for name, is_so in mistakes.items() if is_so), None)
    return (400, wrong.encode()) if wrong else (200, b"ok")


def certify(file: Path, *options: str) -> Path:
    """Write a new certificate and its key into a file, by the openssl program; by default it signs itself."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-days", "2", "-subj", f"/CN={file.stem}", "-keyout", str(file), "-out", str(file), *options]
    subprocess.run(command, check=True, capture_output=True)
    return file


@contextmanager
def receiving(certificate: Path | None = None) -> Iterator[Receiver]:
    """Listen on a free port; with TLS if there is a certificate with its key."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            got = Got({name.lower(): value for name, value in self.headers.items()}, body)
            receiver.got.append(got)
            receiver.on_request(got)
            if receiver.hangs:
                receiver.let_go.wait(30)
            try:
                self.send_response(receiver.status)
                for name, value in receiver.headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(receiver.body)))
                self.end_headers()
                self.wfile.write(receiver.body)
            except OSError:  # the sender had enough
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    if certificate is not None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate)
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    receiver.url = f"http{'s' if certificate else ''}://127.0.0.1:{server.server_port}/limiter"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.let_go.set()
        server.shutdown()
        thread.join()
        server.server_close()
