"""Every configuration of deploy/envoy/ is valid, runs, lets a call through, and stops one that has no money."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from deploy.demo.envoy import CONFIGURATIONS, Tree, configuration, mistakes, with_files
from limiter.domain.calls import BODY_MAX_BYTES
from limiter.envoy.exchanges import HEADERS
from tests.gateway.conftest import Desk, Open
from tests.gateway.gateways import COST, ORDERS, RESERVATION, Certificates, Gateway, ended, http_filter, nanousd
from tests.integration.connections import eventually
from tests.integration.sidecars import Sidecar

NAMES = sorted(path.name for path in CONFIGURATIONS.glob("*.yaml"))
MESSAGES: list[Any] = [{"role": "user", "content": "What is the capital of Mexico?"}]

ORDER = ["ext_authz", "ext_proc", "lua", "ai_protocol_manager", "router"]

#: A file that a machine need not have, and that Envoy wants to see.
AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"


def test_there_is_a_configuration_for_every_way() -> None:
    assert NAMES == ["access-log.yaml", "default.yaml", "ext-proc.yaml", "mtls.yaml", "unix-socket.yaml"]


@pytest.mark.parametrize("name", NAMES)
def test_envoy_takes_the_configuration_as_it_is(
    name: str, envoy_binary: Path, certificates: Certificates, tmp_path: Path
) -> None:
    files = dict(certificates.of_envoy)
    if not Path(AUTHORITIES).exists():
        files[AUTHORITIES] = certificates.file("ca.pem")
    assert mistakes(envoy_binary, with_files(configuration(name), files), tmp_path / "envoy.json") == ""


@pytest.mark.parametrize("name", NAMES)
def test_the_configurations_differ_only_where_they_say(name: str) -> None:
    tree = configuration(name)
    order = [one["name"].rpartition(".")[2] for one in manager(tree)["http_filters"]]
    assert order == [one for one in ORDER if one in order]
    assert common(tree) == common(configuration("default.yaml"))


def manager(tree: Tree) -> Tree:
    """The configuration of the HTTP connection manager."""
    found: Tree = tree["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    return found


def common(tree: Tree) -> list[Any]:
    """What all configurations have alike: who may be called, how Limiter is asked, and what a path may look like."""
    (listener,) = tree["static_resources"]["listeners"]
    (host,) = manager(tree)["route_config"]["virtual_hosts"]
    routes = host["routes"]
    extension = "envoy.filters.http.ext_authz"
    return [
        [cluster for cluster in tree["static_resources"]["clusters"] if cluster["name"] != "limiter"],
        http_filter(tree, "ext_authz"),
        [(route["match"], route.get("route"), route["typed_per_filter_config"][extension]) for route in routes],
        routes[-1]["direct_response"],
        host["request_headers_to_remove"],
        {name: value for name, value in manager(tree).items() if name.startswith(("normal", "merge", "path", "skip"))},
        listener["per_connection_buffer_limit_bytes"],
    ]


@pytest.mark.parametrize("name", NAMES)
def test_no_attempt_to_ask_limiter_ends_before_the_time_for_a_decision(name: str) -> None:
    # Envoy 1.40 takes max_interval of a gRPC service's retry_back_off as the timeout of each attempt, and ten times
    # base_interval where there is none. With less than `timeout`, decisions are given up that were to be waited for.
    service = http_filter(configuration(name), "ext_authz")["grpc_service"]
    back_off = service["retry_policy"]["retry_back_off"]
    assert seconds(back_off["max_interval"]) >= seconds(service["timeout"])


@pytest.mark.parametrize("name", NAMES)
def test_envoy_keeps_as_much_of_a_request_as_it_is_to_show(name: str) -> None:
    tree = configuration(name)
    kept = tree["static_resources"]["listeners"][0]["per_connection_buffer_limit_bytes"]
    assert http_filter(tree, "ext_authz")["with_request_body"]["max_request_bytes"] < kept <= BODY_MAX_BYTES


@pytest.mark.parametrize("name", [name for name in NAMES if name != "access-log.yaml"])
def test_ext_proc_is_sent_the_headers_that_it_looks_at_and_no_key(name: str) -> None:
    allowed = http_filter(configuration(name), "ext_proc")["forward_rules"]["allowed_headers"]["patterns"]
    assert allowed == [{"exact": header} for header in HEADERS]


def seconds(text: str) -> float:
    """A duration as configurations have it."""
    return float(text.removesuffix("s"))


@pytest.fixture
def gateway(name: str, request: pytest.FixtureRequest) -> Gateway:
    """A running Envoy with the configuration `name`."""
    if name == "mtls.yaml":
        secure: Gateway = request.getfixturevalue("secure_gateway")
        return secure
    start: Callable[[str], Gateway] = request.getfixturevalue("at_sidecar")
    return start(name)


@pytest.mark.parametrize("name", NAMES)
async def test_a_call_is_settled_and_one_without_money_is_refused(name: str, gateway: Gateway, desk: Desk) -> None:
    caller = await desk.caller(gateway, "{limits: [{id: all, spend: 0.05, per: total}]}")
    client = gateway.openai(caller.secret)
    label = f"{name}-{os.urandom(4).hex()}"
    answer = client.chat.completions.with_raw_response.create(
        model="gpt-4o", messages=MESSAGES, max_tokens=8, extra_headers={ORDERS: f"call={label}"}
    )
    (billed,) = gateway.provider.calls(label)
    hold = await ended(caller.connection, answer.headers[RESERVATION])
    assert hold.cost_nanousd == billed["cost_nanousd"] > 0
    if name == "access-log.yaml":
        assert COST not in answer.headers
    else:
        assert nanousd(answer.headers[COST]) == billed["cost_nanousd"]
    with pytest.raises(openai.APIStatusError) as refused:
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES, max_tokens=10_000)
    assert refused.value.status_code == 402


@pytest.mark.parametrize("name", ["default.yaml", "access-log.yaml", "ext-proc.yaml"])
async def test_a_cost_and_a_reservation_that_a_provider_tells_never_reach_the_client(
    name: str, open_gateway: Open, sidecar: Sidecar, desk: Desk
) -> None:
    def talkative(tree: Tree) -> None:
        """As if the provider's answers had them; the virtual host's own rules come after those of its routes."""
        own = {COST: "0.00", RESERVATION: "made-up"}
        for route in manager(tree)["route_config"]["virtual_hosts"][0]["routes"]:
            route["response_headers_to_add"] = [{"header": {"key": key, "value": own[key]}} for key in own]

    gateway = open_gateway(name, sidecar, change=talkative)
    caller = await desk.caller(gateway, "{limits: []}")
    calls = gateway.openai(caller.secret).chat.completions.with_raw_response
    answer = calls.create(model="gpt-4o", messages=MESSAGES, max_tokens=8)
    (reservation,) = answer.headers.get_list(RESERVATION)
    cost = (await ended(caller.connection, reservation)).cost_nanousd
    told = answer.headers.get_list(COST)
    assert [nanousd(one) for one in told] == ([] if name == "access-log.yaml" else [cost])
    stream = calls.create(model="gpt-4o", messages=MESSAGES, max_tokens=8, stream=True)
    assert COST not in stream.headers
    assert list(stream.parse())


def test_the_demo_finds_that_books_and_bill_agree(envoy_binary: Path) -> None:
    del envoy_binary
    done = subprocess.run(
        [sys.executable, "-m", "deploy.demo.envoy_demo"], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "they agree to the nano-dollar" in done.stdout


async def test_what_ext_proc_has_settled_is_not_told_again(at_sidecar: Callable[[str], Gateway], desk: Desk) -> None:
    gateway = at_sidecar("default.yaml")
    caller = await desk.caller(gateway, "{limits: []}")

    def told(result: str) -> float:
        labels = f'result="{result}",way="access_log"'
        return gateway.sidecar.metric("limiter_envoy_settlements_total", labels)

    repeated, settled = told("repeated"), told("settled")
    async with gateway.async_openai(caller.secret) as client:
        await client.chat.completions.create(model="gpt-4o", messages=MESSAGES, max_tokens=8)
        # The log tells of this stream after whatever it tells of the call before.
        stream = await client.chat.completions.create(model="gpt-4o", messages=MESSAGES, max_tokens=8, stream=True)
        assert [event async for event in stream]

    async def is_told() -> bool:
        return told("settled") > settled

    await eventually(is_told, what="the settlement of the stream")
    assert told("repeated") == repeated
