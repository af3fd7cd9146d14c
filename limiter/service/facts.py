"""What of a call its settlement asks for beside its plan: told to the ledger, and remembered where it was granted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from limiter.domain.calls import Usage
from limiter.service.plans import CallPlan
from limiter.service.sizing import Hold, Request

#: Operations whose answers may never tell a usage.
_MAY_BE_SILENT = frozenset({"embeddings", "images", "moderation", "rerank", "speech", "transcription", "video"})

#: Operations in which the model runs once, if nothing on the provider's side calls it again.
_RUN_ONCE = frozenset({"chat", "completion"})


class Facts(NamedTuple):
    """One call.

    `floor` is the least that it costs. `asked` is what its request asks for, which is what was used where the answer
    never tells. `runs` once: the provider calls the model a single time for each of `choices`. `safe` are the parts of
    its safe hold, input and output, where the plan learns.
    """

    operation: str = ""
    floor: int = 0
    asked: Usage | None = None
    runs_once: bool = False
    choices: int = 1
    safe: tuple[int, int] | None = None

    def text(self) -> str:
        """Continue the JSON of the call in the ledger."""
        text = f', "operation": "{self.operation}"' if self.operation else ""
        if self.floor:
            text += f', "floor_nanousd": {self.floor}'
        if self.asked is not None:
            asked = self.asked.units | ({"input_tokens": self.asked.input_tokens} if self.asked.input_tokens else {})
            text += f', "asked": {json.dumps(asked)}'
        if self.runs_once:
            text += ', "runs": 1'
        if self.choices > 1:
            text += f', "choices": {self.choices}'
        return text if self.safe is None else f'{text}, "safe": [{self.safe[0]}, {self.safe[1]}]'


NO_FACTS = Facts()


def facts_of(plan: CallPlan, request: Request, hold: Hold) -> Facts:
    """The facts of a call that asks for a hold."""
    operation = request.operation
    if not operation and hold.safe is None and not plan.floors:
        return NO_FACTS
    asked = None
    if operation in _MAY_BE_SILENT:
        safe = request.size.safe
        asked = Usage(input_tokens=safe.input_tokens, units=dict(safe.units))
    once = operation in _RUN_ONCE and request.size.growth is None
    floor = plan.floor(operation) if request.cost is None else 0
    return Facts(operation, floor, asked, once, request.choices, hold.safe)


def facts_in(call: Mapping[str, Any]) -> Facts:
    """The facts of a call as the ledger has them."""
    asked = call.get("asked")
    if asked is not None:
        asked = Usage(input_tokens=asked.get("input_tokens", 0), units=_units(asked))
    safe = call.get("safe")
    return Facts(
        operation=call.get("operation", ""),
        floor=call.get("floor_nanousd", 0),
        asked=asked,
        runs_once="runs" in call,
        choices=call.get("choices", 1),
        safe=None if safe is None else (safe[0], safe[1]),
    )


def _units(asked: Mapping[str, int]) -> dict[str, int]:
    return {unit: count for unit, count in asked.items() if unit != "input_tokens"}
