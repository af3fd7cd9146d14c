"""Every provider's export is read as it is documented; what is wrong in it is named with its place."""

from __future__ import annotations

import gzip
from decimal import Decimal
from pathlib import Path

import pytest

from limiter.domain.errors import InvalidArgument
from limiter.ledger.reconciling.bills import Bill
from limiter.ledger.reconciling.bills.aws_cur import model_of as aws_model
from limiter.ledger.reconciling.bills.lines import BillLine, part_of
from limiter.ledger.reconciling.bills.names import key_of
from limiter.ledger.reconciling.bills.openai import model_of as openai_model
from limiter.ledger.reconciling.bills.vertex import model_of as vertex_model
from tests.ledger.rows import HOUR, NOVEMBER

BILLS = Path(__file__).parent.parent / "data" / "bills"
DAY = 24 * HOUR


def read(provider: str, *names: str) -> tuple[list[BillLine], Bill]:
    """The lines of sample exports."""
    bill = Bill(provider, [BILLS / name for name in names])
    return list(bill.lines()), bill


def counts(line: BillLine) -> tuple[int | None, ...]:
    return line.input_tokens, line.output_tokens, line.cache_read_tokens, line.cache_write_tokens


def test_openais_costs_are_read_by_model_and_day() -> None:
    lines, bill = read("openai", "openai_costs.json")
    assert [(line.model, line.cost) for line in lines] == [
        ("gpt-4o-2024-08-06", Decimal("1.25")),
        ("gpt-4o-2024-08-06", Decimal("0.03125")),
        ("gpt-5.1", Decimal("0.5")),
        ("", Decimal("0.1")),
        ("gpt-audio-mini-2025-12-15", Decimal("2e-7")),
    ]
    assert {(line.start_ms, line.end_ms) for line in lines} == {(NOVEMBER, NOVEMBER + DAY)}
    assert bill.told.unit == Decimal("1e-7")


def test_openais_dashboard_has_the_same_in_columns_and_days_without_cost_are_told() -> None:
    lines, bill = read("openai", "openai_costs.csv")
    assert [(line.model, line.cost) for line in lines] == [("gpt-4o-2024-08-06", Decimal("0.895874"))]
    assert bill.told.left_out["days without cost"].lines == 1
    assert not bill.told.unknown_columns


def test_openais_usage_counts_and_a_column_that_nobody_knows_is_told() -> None:
    (line,), bill = read("openai", "openai_usage.json")
    assert (line.calls, line.cost) == (12, None)
    assert (line.input_tokens, line.output_tokens, line.cache_read_tokens) == (525_000, 0, 25_000)
    assert list(bill.told.unknown_columns) == ["novelty"]


def test_anthropics_costs_are_in_cents() -> None:
    lines, bill = read("anthropic", "anthropic_cost.json")
    assert [(line.model, line.item, line.cost) for line in lines] == [
        ("claude-sonnet-4-5-20250929", "Claude Sonnet 4.5 Usage - Input Tokens", Decimal("1.2345")),
        ("", "Code Execution Usage", Decimal("0.50")),
    ]
    assert bill.told.unit == Decimal("0.0001")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("anthropic_usage.json", (3200, 500, 200, 1500)), ("anthropic_console_usage.csv", (165, 20, 50, 15))],
)
def test_anthropics_usage_includes_what_was_cached(name: str, expected: tuple[int, ...]) -> None:
    (line,), bill = read("anthropic", name)
    assert counts(line) == expected
    assert line.end_ms - line.start_ms == HOUR
    assert not bill.told.unknown_columns


def test_anthropics_console_names_models_for_people() -> None:
    lines, _ = read("anthropic", "anthropic_console_cost.csv")
    assert {key_of(line.model) for line in lines} == {key_of("claude-sonnet-4-5-20250929")}
    assert sum(line.cost or 0 for line in lines) == Decimal("0.07")


def test_googles_lines_have_credits_other_services_and_other_currencies() -> None:
    lines, bill = read("vertex", "vertex.jsonl", "vertex.csv")
    assert [(line.model, line.cost) for line in lines] == [
        ("gemini-2.5-flash", Decimal("0.3")),
        ("gemini-2.5-flash", Decimal("-0.1")),
        ("claude-sonnet-4.5", Decimal(15)),
        ("gemini-2.5-flash", Decimal("2.5")),
    ]
    assert [counts(line)[:2] for line in lines] == [
        (1_000_000, None), (None, None), (None, 1_000_000), (None, 1_000_000),
    ]  # fmt: skip
    assert bill.told.left_out["lines of other services"].usd == Decimal("4.56789012345")
    assert bill.told.notes == ["amounts in EUR are converted at each line's currency_conversion_rate"]


def test_aws_lines_of_both_versions() -> None:
    lines, bill = read("aws", "cur1.csv", "cur2.csv")
    assert [(line.model, line.cost, counts(line)[:3]) for line in lines] == [
        ("Claude3Sonnet", Decimal("4.5015"), (1_500_500, None, 0)),
        ("Claude4.5Haiku", Decimal("0.001"), (10_000, None, 10_000)),
        ("Claude3Sonnet", Decimal(-1), (None, None, None)),
        ("Claude Sonnet 4.5", Decimal(30), (None, 2_000_000, None)),
    ]
    told = bill.told.left_out
    assert (told["lines of other services"].lines, told["lines of type Tax"].usd) == (1, Decimal("0.9"))
    assert bill.told.unit == Decimal("1e-9")


@pytest.mark.parametrize(
    ("provider", "name", "expected"),
    [
        ("openrouter", "openrouter.csv", ("gen-1793491201-madeup", Decimal("0.0123"), 10389, 137)),
        ("litellm", "litellm.jsonl", ("chatcmpl-madeup", Decimal("1.25e-05"), 10, 5)),
    ],
)
def test_gateways_logs_have_a_line_for_each_call(provider: str, name: str, expected: tuple[object, ...]) -> None:
    (line,), _ = read(provider, name)
    assert (line.request_id, line.cost, line.input_tokens, line.output_tokens) == expected
    assert line.start_ms == line.end_ms


def mapped(directory: Path, mapping: str, text: str, name: str = "export.csv") -> list[BillLine]:
    (directory / "map.yaml").write_text(mapping)
    (directory / name).write_text(text)
    return list(Bill("acme", [directory / name], directory / "map.yaml").lines())


def test_a_mapping_says_what_any_columns_mean(tmp_path: Path) -> None:
    mapping = (
        "columns: {time: day, model: m, cost: cents, input_tokens: kin, cache_read_tokens: kc, calls: n, currency: c}\n"
        "bucket: day\ncost_in: '0.01'\ntokens_in: 1000\ninput_includes_cache: false\n"
    )
    (line,) = mapped(tmp_path, mapping, "day,m,cents,kin,kc,n,c\n2026-11-01,acme-1,250,1.5,0.5,3,USD\n")
    assert (line.cost, line.input_tokens, line.cache_read_tokens, line.calls) == (Decimal("2.50"), 2000, 500, 3)
    assert line.end_ms - line.start_ms == DAY


def test_a_mapping_leads_into_objects_of_json(tmp_path: Path) -> None:
    mapping = "columns: {time: at, model: m, cost: bill.usd, request_id: id}\n"
    (line,) = mapped(tmp_path, mapping, '{"at": 1793491200, "m": "x", "bill": {"usd": 0.1}, "id": "a"}\n', "e.json")
    assert (line.cost, line.request_id, line.start_ms, line.calls) == (Decimal("0.1"), "a", NOVEMBER, 1)


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        ("columns: {time: a}", "at least the columns of time and model"),
        ("columns: {time: a, model: b}", "name the column of the cost"),
        ("columns: {time: a, model: b, cost: c}\nbuckets: day", "buckets: 'buckets' is not valid; there is only"),
        ("columns: {time: a, model: b, cost: c}\nbucket: week", "bucket: 'week' is not valid; write minute, hour, day"),
        ("columns: {time: a, model: b, cost: z}", "the mapping names z"),
        ("- 1", "write `columns:`"),
        ("a: [", "write YAML"),
    ],
)
def test_a_mapping_with_a_mistake_is_refused(tmp_path: Path, mapping: str, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        mapped(tmp_path, mapping, "a,b,c\n2026-11-01,m,1\n")


@pytest.mark.parametrize(
    ("provider", "text", "said"),
    [
        ("openai", "", "the file is empty"),
        ("openai", "a,b\n1,2\n", r"give OpenAI's export of costs or usage"),
        ("openai", "start_time,amount_value,line_item\n1793491200,1.0\n", "export.csv:2: .*2 fields.*cut off"),
        ("openai", '{"data": [{"start_time": 1', "the file is damaged or cut off"),
        ("openai", '{"a": 1}\n{"a": \n', "export.csv:2.*cut off|give the answers"),
        ("openai", "start_time,amount_value,amount_currency\n1793491200,1.0,eur\n", "currency: 'eur'.*in USD"),
        ("openai", "start_time,amount_value\n1793491200,much\n", "amount: 'much' is not valid; write a number"),
        ("openai", "start_time,amount_value\nyesterday,1\n", "start_time: 'yesterday'.*write a time"),
        ("openai", f"start_time,amount_value\n{2**63},1\n", "start_time: .*write a time"),
        ("openai", "start_time,amount_value\n1793491200,1e999999999\n", "amount: .*at most 60 digits"),
        ("openai", "start_time,amount_value\n1793491200,1e-999999999\n", "amount: .*at most 60 digits"),
        ("openai", '{"data": ' + "[" * 100_000, "the file is damaged or cut off"),
        ("openai", '{"data": [' + "9" * 5_000 + "]}", "the file is damaged or cut off"),
        ("openai", '{"data": [5]}', "JSON of another shape"),
        ("openai", '{"data": [{"start_time": 1793491200, "results": null}]}', "JSON of another shape"),
        ("openai", "start_time,end_time,amount_value,model\n", "there is no line in it"),
        (
            "openai",
            '{"data": [{"start_time": 1793491200, "end_time": 1793577600, "results": []}], "has_more": true}',
            "further pages",
        ),
        ("anthropic", "a,b\n1,2\n", "usage_date_utc"),
        ("vertex", "a,b\n1,2\n", "export service_description, sku_description"),
        ("vertex", "service_description,sku_description,usage_start_time,cost,currency\nVertex AI,x,2026-11-01,1,EUR\n",
         "currency_conversion_rate"),
        ("aws", "a,b\n1,2\n", "give a Cost and Usage Report"),
        ("openrouter", "a,b\n1,2\n", "generation_id"),
        ("nobody", "a,b\n", "for another one say with --mapping"),
    ],
)  # fmt: skip
def test_what_is_no_such_export_or_is_cut_off_is_an_error(tmp_path: Path, provider: str, text: str, said: str) -> None:
    (tmp_path / "export.csv").write_text(text)
    with pytest.raises(InvalidArgument, match=said):
        list(Bill(provider, [tmp_path / "export.csv"]).lines())


def test_gzip_is_read_and_half_of_it_is_an_error(tmp_path: Path) -> None:
    packed = gzip.compress((BILLS / "cur1.csv").read_bytes())
    (tmp_path / "cur.csv.gz").write_bytes(packed)
    assert len(list(Bill("aws", [tmp_path / "cur.csv.gz"]).lines())) == 3
    (tmp_path / "cur.csv.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(InvalidArgument, match="cut off"):
        list(Bill("aws", [tmp_path / "cur.csv.gz"]).lines())


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="No such file"):
        list(Bill("aws", [tmp_path / "cur.csv.gz"]).lines())


@pytest.mark.parametrize(
    "names",
    [
        ("gpt-4o", "gpt-4o-2024-08-06", "openai/gpt-4o", "GPT-4o", "gpt-4o-latest", "ft:gpt-4o-2024-08-06:acme::x"),
        (
            "claude-sonnet-4-5", "us.anthropic.claude-sonnet-4-5-20250929-v1:0", "claude-sonnet-4-5@20250929",
            "Claude4.5Sonnet", "Claude Sonnet 4.5", "anthropic/claude-sonnet-4.5:free",
        ),
        ("anthropic.claude-3-sonnet-20240229-v1:0", "Claude3Sonnet"),
        ("models/gemini-2.5-flash", "gemini-2.5-flash-001", "gemini-2.5-flash-preview-05-20", "gemini 2.5 flash"),
        ("amazon.nova-micro-v1:0", "NovaMicro"),
        ("meta.llama3-70b-instruct-v1:0", "Llama3-70B-Instruct"),
    ],
)  # fmt: skip
def test_one_model_has_one_key_however_it_is_written(names: tuple[str, ...]) -> None:
    assert len({key_of(name) for name in names}) == 1


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("input", "input"), ("uncached_input_tokens", "input"), ("input_no_cache", "input"),
        ("output, long context", "output"), ("Gemini 2.5 Flash GA Thinking Text Output - Predictions", "output"),
        ("cached input", "cache_read"), ("cache_read_input_tokens", "cache_read"),
        ("USE1-Claude4.5Haiku-cache-write-input-token-count", "cache_write"),
        ("cache_creation.ephemeral_5m_input_tokens", "cache_write"), ("Caching Storage", ""), ("web search", ""),
    ],
)  # fmt: skip
def test_the_kind_of_token_is_found_in_what_bills_call_their_lines(words: str, part: str) -> None:
    assert part_of(words) == part


def test_different_models_have_different_keys() -> None:
    names = (
        "gpt-4o",
        "gpt-4o-mini",
        "gpt-4.1",
        "gpt-4",
        "o4-mini",
        "claude-sonnet-4-5",
        "claude-sonnet-4",
        "llama3-2-1b",
    )
    assert len({key_of(name) for name in names}) == len(names)


def test_models_are_found_in_what_bills_call_their_lines() -> None:
    assert openai_model("ft-gpt-4o-2024-08-06, input") == "ft-gpt-4o-2024-08-06"
    assert (openai_model("Vector storage"), openai_model("")) == ("", "")
    assert aws_model("USW2-Nova2.0Lite-output-tokens-flex-cross-region-global") == "Nova2.0Lite"
    assert aws_model("USE1-BoxUsage") == ""
    assert vertex_model("Gemini 2.5 Flash GA Thinking Text Output - Predictions") == "gemini-2.5-flash"
    assert vertex_model("Generate content cached input token count gemini 3.6 flash text") == "gemini-3.6-flash"
    assert vertex_model("Online Prediction N1 core") == ""
