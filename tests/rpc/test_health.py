"""Health and reflection, on each engine."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from limiter.rpc.listeners import Listener
from limiter.v1 import limiter_pb2
from tests.rpc.conftest import Bed

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def check(stub: health_pb2_grpc.HealthStub, service: str = "") -> int:
    return int((await stub.Check(health_pb2.HealthCheckRequest(service=service))).status)


@pytest.mark.parametrize("service", ["", "limiter.v1.Limiter"])
async def test_a_started_server_is_serving_and_needs_no_token_to_say_so(bed: Bed, service: str) -> None:
    server = await bed.serve(Listener("127.0.0.1:0", token="a-token-that-is-long-enough"))

    assert await check(health_pb2_grpc.HealthStub(bed.channel(server)), service) == SERVING


async def test_health_of_an_unknown_service_is_not_found(bed: Bed) -> None:
    stub = health_pb2_grpc.HealthStub(bed.channel(await bed.serve()))

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await check(stub, "limiter.v1.Oracle")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_server_told_that_its_store_is_gone_says_so_and_recovers(bed: Bed) -> None:
    server = await bed.serve()
    stub = health_pb2_grpc.HealthStub(bed.channel(server))

    await server.set_serving(False)
    assert await check(stub) == await check(stub, "limiter.v1.Limiter") == NOT_SERVING
    await server.set_serving(True)
    assert await check(stub) == await check(stub, "limiter.v1.Limiter") == SERVING


async def test_watchers_hear_of_every_change_until_the_end(bed: Bed) -> None:
    server = await bed.serve()
    watch = health_pb2_grpc.HealthStub(bed.channel(server)).Watch(health_pb2.HealthCheckRequest())

    assert (await watch.read()).status == SERVING
    await server.set_serving(False)
    assert (await watch.read()).status == NOT_SERVING
    await server.set_serving(True)
    assert (await watch.read()).status == SERVING
    last = asyncio.create_task(watch.read())
    await server.drain(5)
    assert (await last).status == NOT_SERVING


async def test_reflection_lists_the_services_and_describes_them(bed: Bed) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(bed.channel(await bed.serve()))
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="limiter.v1.Limiter"),
    ]

    listed, described = [answer async for answer in stub.ServerReflectionInfo(iter(requests))]

    assert {service.name for service in listed.list_services_response.service} == {
        "limiter.v1.Limiter",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    files = described.file_descriptor_response.file_descriptor_proto
    assert limiter_pb2.DESCRIPTOR.serialized_pb in list(files)
