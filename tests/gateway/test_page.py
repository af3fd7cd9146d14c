"""Whoever copies an example from docs/envoy.md gets what stands there: all are run through a real Envoy."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import openai
import pytest

from tests.docs.pages import ROOT, Block, blocks, page, table_of
from tests.gateway.conftest import Desk, Open
from tests.gateway.gateways import Gateway
from tests.integration.sidecars import Fleet

PAGE: Final = "docs/envoy.md"
CLIENTS: Final = "127.0.0.1:10000"
STATISTIC: Final = "statistic of Envoy's"

_SECRET: Final = re.compile(r"lk-[A-Za-z0-9_-]{20,}")


@pytest.fixture
def example(sidecars: Fleet, options_file: Path, open_gateway: Open) -> Gateway:
    """What the page starts, with a stand-in for the providers."""
    policy = ROOT / "deploy" / "policy.example.yaml"
    return open_gateway("default.yaml", sidecars.start("--envoy", str(options_file), "--policy", str(policy)))


class Shell:
    """Runs the blocks of the page, one after the other."""

    def __init__(self, gateway: Gateway, directory: Path) -> None:
        limiter = directory / "limiter"
        limiter.write_text(f'#!/bin/sh\nexec {sys.executable} -m limiter "$@"\n')
        limiter.chmod(0o755)
        self._gateway = gateway
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("LIMITER_")} | {
            "PATH": f"{directory}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "LIMITER_DATA_DIR": str(gateway.sidecar.directory),
        }

    def run(self, block: Block) -> str:
        """What a block prints; a secret that it prints is the SDKs' key from then on."""
        text = block.text.replace(f"http://{CLIENTS}", self._gateway.envoy.url)
        command = ["sh", "-c", text] if block.kind == "sh" else [sys.executable, "-c", text]
        done = subprocess.run(
            command, env=self._environment, text=True, capture_output=True, timeout=60, check=False
        )  # fmt: skip
        assert done.returncode == 0, f"line {block.line}: {done.stdout}{done.stderr}"
        printed = done.stdout + done.stderr
        for secret in _SECRET.findall(printed):
            self._environment |= {"OPENAI_API_KEY": secret, "ANTHROPIC_API_KEY": secret}
        return printed


async def test_the_examples_do_what_the_page_says(example: Gateway, tmp_path: Path) -> None:
    shell = Shell(example, tmp_path)
    printed = {}
    for block in blocks(page(PAGE), "sh", "python"):
        if block.not_run is None:
            printed[block.text] = await asyncio.to_thread(shell.run, block)
    keys, chat, message = printed.values()
    (shown,) = (block for block in blocks(page(PAGE), "text") if "secret   lk-" in block.text)
    assert set(shown.text.splitlines()) <= set(_SECRET.sub("lk-…", keys).splitlines())
    cost, reservation = chat.splitlines()
    assert re.fullmatch(r"0\.\d+ USD", cost)
    assert reservation.startswith("organizations/acme/reservations/")
    assert message == ""


def shape(value: Any) -> Any:  # noqa: ANN401 - JSON
    """The names in a JSON value, with the kinds of their values."""
    if isinstance(value, dict):
        return {name: shape(part) for name, part in value.items()}
    if isinstance(value, list):
        return [shape(part) for part in value]
    return type(value).__name__


async def test_a_refusal_looks_as_the_page_shows(desk: Desk, at_sidecar: Callable[[str], Gateway]) -> None:
    caller = await desk.caller(at_sidecar("default.yaml"), "{limits: [{id: daily, spend: 0.001, per: day}]}")
    create: Callable[..., Any] = caller.gateway.openai(caller.secret).chat.completions.create
    with pytest.raises(openai.APIStatusError) as refused:
        await asyncio.to_thread(create, model="gpt-4o", messages=[{"role": "user", "content": "Hi"}], max_tokens=100)
    (block,) = blocks(page(PAGE), "json")
    shown = json.loads(block.text)
    answer = refused.value.response.json()
    assert refused.value.status_code == 402
    assert shape(answer) == shape(shown)
    for name in ("type", "code"):
        assert answer["error"][name] == shown["error"][name]
    assert answer["limiter"]["reason"] == shown["limiter"]["reason"]


def test_the_statistics_of_envoy_exist(example: Gateway) -> None:
    told = example.envoy.ask("/stats")
    for row in table_of(PAGE, STATISTIC).rows:
        assert f"{row[STATISTIC]}: " in told
