"""The JSON Schema of the policy document, for editors. `python -m limiter.policy.schema` prints it.

It knows shapes and names; what only several fields show together is checked by reading the document.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from limiter.policy.limit_lists import KINDS
from limiter.policy.parts import Document


class _Schema(GenerateJsonSchema):
    """A field that may be left out may still not be null."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a policy document."""
    schema = Document.model_json_schema(schema_generator=_Schema)
    limit = schema["$defs"]["LimitPart"]
    limit["oneOf"] = [{"required": [kind, "per"] if periods else [kind]} for kind, (_, periods) in KINDS.items()]
    return {"$schema": _Schema.schema_dialect, **schema}


def schema_text() -> str:
    """Return the schema as it stands in docs/policy.schema.json."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(schema_text())
