"""docs/reference.md says what the code says: reasons, fields, rows, metrics, bounds."""

from __future__ import annotations

import json
import re
from typing import Final

import pytest
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor

from limiter.domain import calls, limits, money
from limiter.domain.reservations import RowFlag
from limiter.domain.rows import Row, RowKind
from limiter.domain.verdicts import DenialReason
from limiter.observability.metrics import Family, Metrics
from limiter.policy.fields import LIFETIME_MAX_MS, TTL_MAX_MS
from limiter.rpc.admin_answers import ledger_row
from limiter.rpc.statuses import STATUSES
from limiter.service.secrets import SECRET_MAX
from limiter.v1 import limiter_pb2 as pb
from tests.docs.pages import page, table_of

PAGE: Final = "docs/reference.md"
PROTO: Final = "proto/limiter/v1/limiter.proto"
LUA: Final = "limiter/store/lua/_deciding.lua"

#: What the scripts call the last reason: the word is taken by the kind of limit.
_LUA_NAMES: Final = {"NO_SLOT": "CONCURRENCY"}


def _reasons(name: str) -> list[tuple[str, int, int]]:
    """The table of a page: name, HTTP status, whether retryable."""
    rows = table_of(name, "reason").rows
    return [(row["reason"], int(row["HTTP status"]), int(row["retryable"] == "yes")) for row in rows]


EXPECTED_REASONS: Final = [(reason.name, reason.http_status, int(reason.retryable)) for reason in DenialReason]


@pytest.mark.parametrize("name", [PAGE, "README.md"])
def test_the_pages_list_the_reasons_in_their_order_of_precedence(name: str) -> None:
    assert _reasons(name) == EXPECTED_REASONS


def test_the_reasons_have_the_numbers_of_the_contract() -> None:
    numbers = {row["reason"]: int(row["number"]) for row in table_of(PAGE, "reason").rows}
    assert numbers == {reason.name: reason.value for reason in DenialReason}
    assert numbers == {name: number for name, number in pb.Denial.Reason.items() if number}


def test_the_contract_says_which_http_status_a_reason_has() -> None:
    written = re.findall(r"^    ([A-Z_]+) = (\d+); +// (\d{3})", page(PROTO), re.MULTILINE)
    assert [(name, int(status)) for name, _, status in written] == [(r.name, r.http_status) for r in DenialReason]


def test_the_scripts_know_the_reasons_by_the_same_numbers() -> None:
    found = re.search(r"^local (KEY_DISABLED[A-Z_, ]+?) =\s+([\d, ]+)$", page(LUA), re.MULTILINE)
    assert found is not None
    names = [_LUA_NAMES.get(name.strip(), name.strip()) for name in found[1].split(",")]
    numbers = [int(number) for number in found[2].split(",")]
    assert dict(zip(names, numbers, strict=True)) == {name: DenialReason[name].value for name in names}
    assert {"NEVER_FITS", "SPEND_CEILING", "SPEND_HELD", "REQUEST_RATE", "TOKEN_RATE", "CONCURRENCY"} <= set(names)


def test_every_status_of_the_errors_is_listed() -> None:
    listed = [row["status"] for row in table_of(PAGE, "status").rows]
    assert listed == [status.name for status in STATUSES.values()]


def _section(heading: str) -> str:
    found = re.search(rf"^### {heading}\n(.*?)(?=^##)", page(PAGE), re.MULTILINE | re.DOTALL)
    assert found is not None, f"no section on {heading}"
    return found[1]


def _fields(method: MethodDescriptor) -> list[FieldDescriptor]:
    own = list(method.input_type.fields)
    shares_answer = method.output_type.name == "SettleResponse" and method.name != "Settle"
    return own if shares_answer else [*own, *method.output_type.fields]


@pytest.mark.parametrize(
    "method", list(pb.DESCRIPTOR.services_by_name["Limiter"].methods), ids=lambda method: method.name
)
def test_every_field_of_a_method_is_described(method: MethodDescriptor) -> None:
    text = _section(method.name)
    for field in _fields(method):
        assert f"`{field.name}`" in text, f"{method.name}: {field.name}"
        message = field.message_type
        if message is not None and message.name in ("Estimate", "ProviderRequest", "Denial"):
            for inner in message.fields:
                assert f"`{inner.name}`" in text, f"{method.name}: {field.name}.{inner.name}"


def test_every_field_of_a_limit_is_described() -> None:
    listed = [row["field of a limit"] for row in table_of(PAGE, "field of a limit").rows]
    assert listed == [field.name for field in pb.LimitStatus.DESCRIPTOR.fields]


def test_every_method_of_admin_is_described() -> None:
    listed = [row["method"] for row in table_of(PAGE, "method").rows]
    assert listed == [method.name for method in pb.DESCRIPTOR.services_by_name["Admin"].methods]


def test_every_field_kind_and_flag_of_a_ledger_row_is_described() -> None:
    bare = Row(
        shard=0,
        epoch=0,
        seq=0,
        kind=RowKind.EVENT,
        member="acme/" + "0" * 32,
        state=None,
        basis=None,
        flags=RowFlag(0),
        amount=0,
        held=0,
        cost=0,
        tokens=0,
        reserved_ms=0,
        expires_ms=0,
        at_ms=0,
        taken=(),
        call=b"",
        ending=b"",
    )
    written = json.loads(ledger_row(bare).json)
    assert [row["field of a row"] for row in table_of(PAGE, "field of a row").rows] == list(written)
    assert [row["kind of a row"] for row in table_of(PAGE, "kind of a row").rows] == [kind.name for kind in RowKind]
    assert [row["flag"] for row in table_of(PAGE, "flag").rows] == [flag.name for flag in RowFlag]


def _metrics() -> list[dict[str, str]]:
    """Every metric of the limiter's own, as the table writes it."""
    own = [value for name, value in vars(Metrics()).items() if not name.startswith("_")]
    metrics = [value._metric if isinstance(value, Family) else value for value in own]
    return [
        {
            "metric": f"{metric._name}_total" if metric._type == "counter" else metric._name,
            "kind": metric._type,
            "labels": ", ".join(metric._labelnames),
            "meaning": metric._documentation,
        }
        for metric in metrics
    ]


def test_every_metric_is_described() -> None:
    assert list(table_of(PAGE, "metric").rows) == _metrics()


def test_the_bounds_are_those_of_the_code() -> None:
    rows = {row["what"]: row["at most"] for row in table_of(PAGE, "what", "at most").rows}
    written = {what: int(found[0]) for what, text in rows.items() if (found := re.findall(r"\d+", text))}
    assert written == {
        "request_id, model name": calls.REQUEST_ID_MAX,
        "API key": SECRET_MAX,
        "id of an organization, team, key or limit": 128,
        "tags on a call": calls.TAGS_MAX,
        "body of a provider's request or answer": calls.BODY_MAX_BYTES,
        "tokens or units of one call": calls.COUNT_MAX,
        "cost of one call": money.CALL_MAX_NANOUSD,
        "sum of a counter": money.SUM_MAX_NANOUSD,
        "limits on one scope": limits.LIMITS_PER_SCOPE_MAX,
        "ttl": TTL_MAX_MS // 3_600_000,
        "max_lifetime": LIFETIME_MAX_MS // 86_400_000,
    }
    assert calls.MODEL_MAX == calls.REQUEST_ID_MAX
