"""Listeners, limits and sockets, on each engine with a real client."""

from __future__ import annotations

import asyncio
import socket
import stat
from collections.abc import Awaitable
from pathlib import Path

import grpc
import pytest

from limiter.domain.errors import InvalidArgument
from limiter.rpc import engines
from limiter.rpc.engines import Engine, ServerLimits, choose_engine
from limiter.rpc.guard import Guard
from limiter.rpc.listeners import Listener, TlsFiles
from limiter.v1 import limiter_pb2 as pb
from limiter.v1 import limiter_pb2_grpc
from tests.rpc.conftest import Bed, Scripted, add_limiter


async def status(call: Awaitable[object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details()


async def test_a_unary_call_is_answered(bed: Bed) -> None:
    server = await bed.serve()

    response = await bed.limiter(server).Reserve(pb.ReserveRequest(request_id="a"))

    assert response.reservation == "a"


async def test_port_0_binds_a_free_port_and_says_which(bed: Bed) -> None:
    server = await bed.serve(Listener("127.0.0.1:0"), Listener("127.0.0.1:0"))

    first, second = (address.rpartition(":") for address in server.bound_addresses)

    assert first[0] == second[0] == "127.0.0.1"
    assert 0 < int(first[2]) != int(second[2]) > 0


@pytest.mark.parametrize("address", ["[::1]:0", "localhost:0"])
async def test_addresses_may_be_ipv6_or_names(bed: Bed, address: str) -> None:
    with socket.socket(socket.AF_INET6 if "[" in address else socket.AF_INET) as probe:
        try:
            probe.bind(("::1" if "[" in address else "127.0.0.1", 0))
        except OSError:
            pytest.skip(f"this machine has no {address}")
    server = await bed.serve(Listener(address))

    assert (await bed.limiter(server).Reserve(pb.ReserveRequest(request_id="a"))).reservation == "a"


async def test_each_listener_gets_servicers_that_know_it(bed: Bed) -> None:
    def register(listener: Listener, guard: Guard) -> None:
        async def who(_request: object, _context: object) -> pb.ReserveResponse:
            return pb.ReserveResponse(reservation=f"trusted={listener.trusted}")

        add_limiter(Scripted(who), guard)

    server = await bed.serve(
        Listener("127.0.0.1:0", trusted=True), Listener("127.0.0.1:0", trusted=False), register=register
    )

    assert (await bed.limiter(server, at=0).Reserve(pb.ReserveRequest())).reservation == "trusted=True"
    assert (await bed.limiter(server, at=1).Reserve(pb.ReserveRequest())).reservation == "trusted=False"


async def test_a_taken_port_is_an_error_that_names_the_address(bed: Bed) -> None:
    first = await bed.serve()

    with pytest.raises(InvalidArgument, match=first.bound_addresses[0]):
        await bed.serve(Listener(first.bound_addresses[0]))


async def test_a_server_that_cannot_bind_every_listener_leaves_none_open(bed: Bed, tmp_path: Path) -> None:
    taken = (await bed.serve()).bound_addresses[0]

    with pytest.raises(InvalidArgument, match="cannot be bound"):
        await bed.serve(Listener(f"unix:{tmp_path}/a.sock"), Listener(taken))

    assert not (tmp_path / "a.sock").exists()


async def test_two_servers_may_share_a_port_when_told_to(bed: Bed) -> None:
    async def first(_request: object, _context: object) -> pb.ReserveResponse:
        return pb.ReserveResponse(reservation="first")

    async def second(_request: object, _context: object) -> pb.ReserveResponse:
        return pb.ReserveResponse(reservation="second")

    one = await bed.serve(reuse_port=True, behaviour=first)
    await bed.serve(Listener(one.bound_addresses[0]), reuse_port=True, behaviour=second)

    seen = set()
    for _ in range(200):  # the kernel picks by the connection's ports: 2⁻²⁰⁰ to miss one of them
        seen.add((await bed.limiter(one).Reserve(pb.ReserveRequest())).reservation)
        await bed.channels.pop().close()
        if len(seen) == 2:
            break

    assert seen == {"first", "second"}


async def test_a_message_past_the_limit_is_resource_exhausted(bed: Bed) -> None:
    server = await bed.serve(limits=ServerLimits(message_bytes_max=10_000))
    stub = bed.limiter(server)

    assert (await stub.Reserve(pb.ReserveRequest(request_id="a" * 9_000))).reservation == "a" * 9_000
    code, _ = await status(stub.Reserve(pb.ReserveRequest(request_id="a" * 11_000)))

    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_the_largest_provider_body_fits_by_default(bed: Bed) -> None:
    server = await bed.serve()
    request = pb.ReserveRequest(provider_request=pb.ProviderRequest(body=b"x" * 4 * 1024 * 1024), request_id="a")

    assert (await bed.limiter(server).Reserve(request)).reservation == "a"


async def test_metadata_past_the_limit_is_refused_and_the_connection_lives(bed: Bed) -> None:
    server = await bed.serve(limits=ServerLimits(metadata_bytes_max=2_000))
    stub = bed.limiter(server)

    code, _ = await status(stub.Reserve(pb.ReserveRequest(), metadata=(("x-large", "a" * 3_000),)))

    # pygrpc-native refuses by HTTP 431, which clients read as UNKNOWN.
    assert code in {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNKNOWN}
    assert (await stub.Reserve(pb.ReserveRequest(request_id="a"))).reservation == "a"


async def test_calls_past_the_limit_are_refused_and_the_others_answered(bed: Bed) -> None:
    entered, release = asyncio.Semaphore(0), asyncio.Event()

    async def wait(_request: object, _context: object) -> pb.ReserveResponse:
        entered.release()
        await release.wait()
        return pb.ReserveResponse(reservation="in time")

    server = await bed.serve(behaviour=wait, limits=ServerLimits(calls_max=2))
    stub = bed.limiter(server)
    calls = [stub.Reserve(pb.ReserveRequest()) for _ in range(2)]
    await entered.acquire()
    await entered.acquire()

    code, message = await status(stub.Reserve(pb.ReserveRequest()))
    release.set()

    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "too many calls" in message
    assert [(await call).reservation for call in calls] == ["in time", "in time"]
    assert (await stub.Reserve(pb.ReserveRequest())).reservation == "in time"


async def test_a_request_that_is_no_protobuf_is_invalid_argument(bed: Bed) -> None:
    server = await bed.serve()
    raw = bed.channel(server).unary_unary("/limiter.v1.Limiter/Reserve")

    code, message = await status(raw(b"\xff\xff\xff"))

    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "3 bytes" in message


@pytest.mark.parametrize("method", ["Guess", "Settle"])
async def test_a_method_that_nobody_serves_or_wrote_is_unimplemented(bed: Bed, method: str) -> None:
    server = await bed.serve()

    code, _ = await status(bed.channel(server).unary_unary(f"/limiter.v1.Limiter/{method}")(b""))

    assert code is grpc.StatusCode.UNIMPLEMENTED


async def test_a_servicer_with_a_blocking_method_is_refused(bed: Bed) -> None:
    class Blocking(limiter_pb2_grpc.LimiterServicer):
        def Reserve(self, request: object, context: object) -> None:  # noqa: N802 - generated name
            del request, context

    with pytest.raises(TypeError, match=r"/limiter\.v1\.Limiter/Reserve: make the servicer's method async"):
        await bed.serve(register=lambda _listener, guard: add_limiter(Blocking(), guard))


@pytest.mark.parametrize(
    ("services", "mode", "expected"),
    [({"limiter"}, None, 0o660), ({"admin"}, None, 0o600), ({"limiter"}, 0o666, 0o666)],
)
async def test_a_unix_socket_serves_with_its_permissions_and_goes_at_the_end(
    bed: Bed, tmp_path: Path, services: set[str], mode: int | None, expected: int
) -> None:
    path = tmp_path / "limiter.sock"
    server = await bed.serve(Listener(f"unix:{path}", services=frozenset(services), socket_mode=mode))

    assert server.bound_addresses == (f"unix:{path}",)
    assert stat.S_IMODE(path.stat().st_mode) == expected
    assert (await bed.limiter(server).Reserve(pb.ReserveRequest(request_id="a"))).reservation == "a"

    await server.drain(0)
    assert not path.exists()


async def test_a_socket_file_that_nobody_listens_on_is_replaced(bed: Bed, tmp_path: Path) -> None:
    path = tmp_path / "limiter.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    server = await bed.serve(Listener(f"unix:{path}"))

    assert (await bed.limiter(server).Reserve(pb.ReserveRequest(request_id="a"))).reservation == "a"


async def test_the_socket_of_a_living_server_is_not_taken(bed: Bed, tmp_path: Path) -> None:
    listener = Listener(f"unix:{tmp_path}/limiter.sock")
    server = await bed.serve(listener)

    with pytest.raises(InvalidArgument, match="another server listens here"):
        await bed.serve(listener)

    assert (await bed.limiter(server).Reserve(pb.ReserveRequest(request_id="a"))).reservation == "a"


async def test_a_file_that_is_no_socket_is_not_deleted(bed: Bed, tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")

    with pytest.raises(InvalidArgument, match="no socket"):
        await bed.serve(Listener(f"unix:{path}"))

    assert path.read_text() == "data"


async def test_a_socket_in_a_missing_directory_is_an_error_that_names_it(bed: Bed, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=f"create the directory {tmp_path}/none"):
        await bed.serve(Listener(f"unix:{tmp_path}/none/limiter.sock"))


def test_tls_and_a_missing_accelerator_are_served_by_grpcio(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, tls = Listener("127.0.0.1:0"), Listener("127.0.0.1:0", tls=TlsFiles(Path("c"), Path("k")))

    assert choose_engine(tls, Engine.AUTO) is Engine.GRPCIO
    assert choose_engine(plain, Engine.GRPCIO) is Engine.GRPCIO
    monkeypatch.setattr(engines, "NativeServer", None)
    assert choose_engine(plain, Engine.AUTO) is Engine.GRPCIO
    with pytest.raises(InvalidArgument, match="install pygrpc-native"):
        choose_engine(plain, Engine.NATIVE)
