"""`limiter serve --envoy FILE`: the services of Envoy beside the Limiter's own, and mistakes in the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from limiter.envoy.services import AUTHORIZATION
from limiter.envoy.v3 import ext_authz_pb2 as envoy
from limiter.v1 import limiter_pb2 as pb
from tests.envoy.checks import Answer, check_request, read_answer
from tests.integration.conftest import Dial
from tests.integration.connections import channel
from tests.integration.sidecars import ANYWHERE, Fleet, Sidecar
from tests.integration.test_lifecycle import refusal
from tests.servers import free_port

POLICY = "version: 1\norganizations: {acme: {teams: {search: {keys: {bot: {limits: []}}}}}}"
BOT = "acme/search/bot"


async def check(address: str, request: envoy.CheckRequest) -> Answer:
    """Ask as Envoy does."""
    one = channel(address)
    try:
        call = one.unary_unary(
            f"/{AUTHORIZATION}/Check",
            request_serializer=envoy.CheckRequest.SerializeToString,
            response_deserializer=envoy.CheckResponse.FromString,
        )
        return read_answer(await call(request, timeout=20, wait_for_ready=True))
    finally:
        await one.close()


def listening(sidecar: Sidecar) -> str:
    """The address that the test chose."""
    sidecar.wait_until_serving()
    return sidecar.public


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_sidecar_and_its_workers_swap_in_the_key_of_the_file(
    fleet: Fleet, dial: Dial, tmp_path: Path, workers: str
) -> None:
    (tmp_path / "key").write_text("sk-real")
    file = tmp_path / "envoy.yaml"
    file.write_text(f"upstream_credentials: [{{host: api.openai.com, file: {tmp_path}/key}}]\ntags_header: x-acme-tags")
    port = free_port()
    sidecar = fleet.launch(
        *("--listen", f"127.0.0.1:{port}", "--http", "127.0.0.1:0"), "--envoy", str(file), "--workers", workers
    )
    address = listening(sidecar)
    connection = dial(sidecar)
    await connection.apply(POLICY)
    secret = (await connection.admin.CreateKey(pb.CreateKeyRequest(key=BOT))).secret

    answer = await check(address, check_request(secret=secret))

    assert answer.upstream == {"authorization": "Bearer sk-real"}
    assert "x-acme-tags" in answer.removed
    assert "sk-real" not in sidecar.log.read_text()


async def test_a_listener_may_serve_envoy_alone(fleet: Fleet) -> None:
    sidecar = fleet.launch("--listen", "127.0.0.1:0,services=envoy", "--http", "127.0.0.1:0")

    answer = await check(listening(sidecar), check_request(secret="lk-nobody"))

    assert (answer.status, answer.body["limiter"]["reason"]) == (401, "KEY_UNKNOWN")
    assert sidecar.event("listening")["services"] == ["envoy"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cost_heder: x", "cost_heder: unknown field; did you mean cost_header?"),
        ("upstream_credentials: [{host: a.b, env: LIMITER_TEST_NOT_THERE}]", "upstream_credentials[0].env"),
    ],
)
def test_a_mistake_in_the_file_keeps_a_sidecar_from_starting(
    fleet: Fleet, tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "envoy.yaml").write_text(text)

    assert said in refusal(fleet.launch(*ANYWHERE, "--envoy", str(tmp_path / "envoy.yaml")))


def test_a_file_that_is_not_there_is_named(fleet: Fleet) -> None:
    assert "/no/such/envoy" in refusal(fleet.launch(*ANYWHERE, "--envoy", "/no/such/envoy"))
