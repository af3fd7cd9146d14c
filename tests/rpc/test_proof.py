"""What a calling program must show: a token, a certificate, on each engine."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest
from structlog.testing import capture_logs

from limiter.domain.errors import InvalidArgument
from limiter.rpc.listeners import Listener, TlsFiles
from limiter.v1 import limiter_pb2 as pb
from tests.rpc.conftest import Bed, Certificates

TOKEN = "a-token-" + "that-is-long-enough"


async def code_with(stub: grpc.aio.Channel, *metadata: tuple[str, str]) -> grpc.StatusCode:
    try:
        await stub.Reserve(pb.ReserveRequest(), metadata=metadata)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@pytest.mark.parametrize("shown", [f"Bearer {TOKEN}", f"bearer {TOKEN}"])
async def test_the_right_token_is_let_in(bed: Bed, shown: str) -> None:
    stub = bed.limiter(await bed.serve(Listener("127.0.0.1:0", token=TOKEN)))

    assert await code_with(stub, ("x-first", "1"), ("authorization", shown)) is grpc.StatusCode.OK


@pytest.mark.parametrize("shown", ["", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer "])
async def test_any_other_token_is_unauthenticated_and_the_handler_not_run(bed: Bed, shown: str) -> None:
    ran = asyncio.Event()

    async def run(_request: object, _context: object) -> pb.ReserveResponse:
        ran.set()
        return pb.ReserveResponse()

    stub = bed.limiter(await bed.serve(Listener("127.0.0.1:0", token=TOKEN), behaviour=run))

    assert await code_with(stub, ("authorization", shown)) is grpc.StatusCode.UNAUTHENTICATED
    assert await code_with(stub) is grpc.StatusCode.UNAUTHENTICATED
    assert not ran.is_set()


async def test_a_token_is_neither_shown_nor_logged(bed: Bed) -> None:
    with capture_logs() as logs:
        server = await bed.serve(Listener("127.0.0.1:0", token=TOKEN))
        await code_with(bed.limiter(server), ("authorization", f"Bearer {TOKEN[:-1]}"))

    assert TOKEN[:-1] not in repr(logs)
    assert TOKEN not in repr(Listener("127.0.0.1:0", token=TOKEN))


async def test_tls_serves_callers_that_know_the_authority(bed: Bed, certificates: Certificates) -> None:
    tls = TlsFiles(certificates.server, certificates.server_key)
    server = await bed.serve(Listener("127.0.0.1:0", tls=tls, token=TOKEN))
    credentials = grpc.ssl_channel_credentials(certificates.ca.read_bytes())

    stub = bed.limiter(server, credentials=credentials)
    assert await code_with(stub, ("authorization", f"Bearer {TOKEN}")) is grpc.StatusCode.OK
    assert await code_with(stub) is grpc.StatusCode.UNAUTHENTICATED
    assert await code_with(bed.limiter(server)) is grpc.StatusCode.UNAVAILABLE  # plaintext


async def test_mutual_tls_serves_only_callers_that_the_authority_signed(bed: Bed, certificates: Certificates) -> None:
    tls = TlsFiles(certificates.server, certificates.server_key, client_ca=certificates.ca)
    server = await bed.serve(Listener("127.0.0.1:0", tls=tls))
    ca = certificates.ca.read_bytes()
    known = grpc.ssl_channel_credentials(ca, certificates.client_key.read_bytes(), certificates.client.read_bytes())

    assert await code_with(bed.limiter(server, credentials=known)) is grpc.StatusCode.OK
    unknown = grpc.ssl_channel_credentials(ca)
    assert await code_with(bed.limiter(server, credentials=unknown)) is grpc.StatusCode.UNAVAILABLE


async def test_plaintext_and_tls_listeners_stand_side_by_side(bed: Bed, certificates: Certificates) -> None:
    tls = TlsFiles(certificates.server, certificates.server_key)
    server = await bed.serve(Listener("127.0.0.1:0"), Listener("127.0.0.1:0", tls=tls))
    credentials = grpc.ssl_channel_credentials(certificates.ca.read_bytes())

    assert await code_with(bed.limiter(server, at=0)) is grpc.StatusCode.OK
    assert await code_with(bed.limiter(server, at=1, credentials=credentials)) is grpc.StatusCode.OK


async def test_a_missing_certificate_is_named_with_its_option(bed: Bed, certificates: Certificates) -> None:
    missing = Path("/nowhere/server.pem")

    with pytest.raises(InvalidArgument, match=r"tls-cert.*/nowhere/server.pem"):
        await bed.serve(Listener("127.0.0.1:0", tls=TlsFiles(missing, certificates.server_key)))


async def test_a_key_that_belongs_to_another_certificate_is_an_error(bed: Bed, certificates: Certificates) -> None:
    with pytest.raises(InvalidArgument, match=r"127\.0\.0\.1:0"):
        await bed.serve(Listener("127.0.0.1:0", tls=TlsFiles(certificates.server, certificates.client_key)))
