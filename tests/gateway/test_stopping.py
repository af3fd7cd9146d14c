"""Who stops Envoy as the compose file does loses no end of a call; who starts it by hand gets what it prints."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import openai
import pytest

from limiter.v1 import limiter_pb2 as pb
from tests.deploy.files import DEPLOY, document
from tests.docs.pages import ROOT, blocks, page
from tests.gateway.conftest import Caller, Desk, Open
from tests.gateway.gateways import ORDERS, RESERVATION, Gateway, ended
from tests.integration.sidecars import Fleet
from tests.servers import until

MESSAGES: Final[list[Any]] = [{"role": "user", "content": "Hello"}]
#: Envoy's admin listener, as both have it.
ADMIN: Final = ("127.0.0.1:9901", "127.0.0.1/9901")


@pytest.fixture
async def caller(sidecars: Fleet, options_file: Path, open_gateway: Open, desk: Desk) -> Caller:
    """A caller through an Envoy that the test may stop. What nobody tells stays held for longer than the test lasts."""
    return await desk.caller(open_gateway("default.yaml", sidecars.start("--envoy", str(options_file))))


def of_compose() -> str:
    """The hook of deploy/compose.yaml."""
    (hook,) = document(DEPLOY / "compose.yaml")["services"]["envoy"]["pre_stop"]
    assert hook["command"][:2] == ["bash", "-c"]
    return str(hook["command"][2]).replace("$$", "$")


def of_the_page() -> str:
    """The commands of docs/envoy.md, without the ones that stop the programs."""
    (block,) = (block for block in blocks(page("docs/envoy.md"), "sh") if "drain_listeners" in block.text)
    lines = [line for line in block.text.splitlines() if not line.startswith("kill ")]
    return "\n".join(lines)


@pytest.mark.parametrize("script", [of_compose, of_the_page], ids=["compose", "page"])
async def test_calls_under_way_are_waited_for_and_told(caller: Caller, script: Any) -> None:  # noqa: ANN401 - a function
    gateway = caller.gateway
    text = script()
    if shutil.which("bash") is None or ("curl" in text and shutil.which("curl") is None):
        pytest.skip("bash or curl is not installed here")
    client = gateway.openai(caller.secret, max_retries=0)
    answer = await asyncio.to_thread(
        client.chat.completions.with_raw_response.create,
        model="gpt-4o",
        messages=MESSAGES,
        stream=True,
        extra_headers={ORDERS: "tokens=100,gap_s=0.02"},
    )
    reading = asyncio.create_task(asyncio.to_thread(lambda: len(list(answer.parse()))))
    await asyncio.to_thread(stop, gateway, text)
    assert gateway.envoy.process.returncode is not None
    assert await reading > 95
    hold = await ended(caller.connection, answer.headers[RESERVATION])
    assert (hold.state, hold.basis) == (pb.SETTLED, pb.Settlement.USAGE)


def stop(gateway: Gateway, script: str) -> None:
    """Run the script, then end Envoy."""
    for admin in ADMIN:
        script = script.replace(admin, f"{admin[:10]}{gateway.envoy.places.admin}")
    subprocess.run(["bash", "-c", script], check=True, capture_output=True, timeout=60)
    gateway.envoy.stop()


def test_a_site_to_try_prints_a_key_that_works_and_ends_when_told(envoy_binary: Path, tmp_path: Path) -> None:
    del envoy_binary
    log = tmp_path / "out"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "deploy.demo.envoy_run"], stdout=out, stderr=out, cwd=ROOT, start_new_session=True
        )
    try:
        until(lambda: process.poll() is not None or "Ctrl-C" in log.read_text(), what="the site")
        told = log.read_text()
        assert process.poll() is None, told
        (url,) = re.findall(r"OpenAI's base URL +(\S+)", told)
        (secret,) = re.findall(r"its secret +(\S+)", told)
        (data_dir,) = re.findall(r"--data-dir (\S+)", told)
        store = int(Path(data_dir, "store", "valkey.pid").read_text())
        assert f"Bearer {secret}" in told
        with openai.OpenAI(base_url=url, api_key=secret) as client:
            assert client.chat.completions.create(model="gpt-4o", messages=MESSAGES).usage
    finally:
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        assert process.wait(30) == 0
    with pytest.raises(ProcessLookupError):
        os.kill(store, 0)
