"""The JSON Schema in docs/ is that of the code."""

from pathlib import Path

from limiter.policy.schema import json_schema, schema_text

STORED = Path(__file__).parents[2] / "docs" / "policy.schema.json"


def test_the_stored_schema_is_current() -> None:
    remedy = "run: python -m limiter.policy.schema > docs/policy.schema.json"
    assert STORED.read_text(encoding="utf-8") == schema_text(), remedy


def test_unknown_fields_and_nulls_are_not_in_the_schema() -> None:
    schema = json_schema()
    parts = [schema, *schema["$defs"].values()]
    assert all(part["additionalProperties"] is False for part in parts)
    assert "null" not in schema_text()


def test_a_limit_has_exactly_one_kind() -> None:
    assert json_schema()["$defs"]["LimitPart"]["oneOf"] == [
        {"required": ["spend", "per"]},
        {"required": ["requests", "per"]},
        {"required": ["tokens", "per"]},
        {"required": ["concurrency"]},
    ]
