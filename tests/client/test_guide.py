"""docs/client.md: every block of code runs, and the tables say what the code does."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from limiter.client import errors
from limiter.client.calls import Options
from limiter.client.connection import DEFAULT_ADDRESS
from tests.client.fake_limiter import FakeLimiter

GUIDE = (Path(__file__).parents[2] / "docs" / "client.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)

EXPECTED = [
    ["Reserve", "Settle"],
    ["Reserve", "Settle"],
    ["Reserve", "Extend", "Release"],
    ["Reserve", "Settle"],
    ["Reserve", "Settle"],
    ["Reserve", "Release"],
    ["GetHeadroom"],
]


class Answer(SimpleNamespace):
    usage: object = None

    def model_dump(self, **_options: object) -> dict[str, Any]:
        return {"model": "gpt-4o", "usage": {"prompt_tokens": 9, "completion_tokens": 4}}


def create(*, stream: bool = False, **_request: object) -> Any:  # noqa: ANN401  # a stream or an answer
    return [Answer(), Answer(usage={"prompt_tokens": 9})] if stream else Answer()


async def acreate(**request: object) -> Any:  # noqa: ANN401  # an answer
    return create(**request)  # type: ignore[arg-type]  # as given


def sdk(method: object) -> object:
    return lambda: SimpleNamespace(chat=SimpleNamespace(completions=SimpleNamespace(create=method)))


@pytest.mark.parametrize(("block", "expected"), list(zip(BLOCKS, EXPECTED, strict=True)), ids=range(len(EXPECTED)))
def test_the_code_of_the_guide_runs(
    block: str, expected: list[str], limiter: FakeLimiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    openai = ModuleType("openai")
    vars(openai).update(OpenAI=sdk(create), AsyncOpenAI=sdk(acreate))
    monkeypatch.setitem(sys.modules, "openai", openai)
    monkeypatch.setenv("LIMITER_ADDRESS", limiter.address)
    exec(compile(block.replace(f'"{DEFAULT_ADDRESS}", ', ""), "docs/client.md", "exec"), {"__name__": "guide"})  # noqa: S102  # our own guide
    assert limiter.methods() == expected


def test_the_guide_lists_every_option_and_every_error() -> None:
    for option in Options.__optional_keys__:
        assert f"| `{option}` |" in GUIDE
    for name, value in vars(errors).items():
        if isinstance(value, type) and issubclass(value, errors.LimiterClientError):
            assert re.search(rf"^[│ ]*[├└]*[─ ]*{name}\b", GUIDE, re.MULTILINE), name
