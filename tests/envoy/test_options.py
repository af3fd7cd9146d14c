"""The file of `limiter serve --envoy`: every mistake at its path."""

from __future__ import annotations

from pathlib import Path

import pytest

from limiter.domain.errors import InvalidArgument
from limiter.envoy.options import EnvoyOptions, OptionsInvalid


def test_what_a_file_does_not_say_has_a_default(tmp_path: Path) -> None:
    (tmp_path / "envoy.yaml").write_text("{}")

    assert EnvoyOptions.read(tmp_path / "envoy.yaml") == EnvoyOptions()


def test_the_example_in_the_documentation_of_the_module_is_read(tmp_path: Path) -> None:
    from limiter.envoy import options  # noqa: PLC0415 - its docstring is what is tested

    example = (options.__doc__ or "").partition("::\n")[2]
    (tmp_path / "envoy.yaml").write_text(example)

    read = EnvoyOptions.read(tmp_path / "envoy.yaml")

    assert [credential.host for credential in read.upstream_credentials] == [
        "api.openai.com",
        "api.anthropic.com",
        "bedrock-runtime.*.amazonaws.com",
    ]
    assert getattr(read.partial_body, "hold_usd", None) == 5_000_000_000


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("cost_heder: x", "cost_heder: unknown field; did you mean cost_header?"),
        ("tags_header: 'a b'", "tags_header: 'a b' is not valid"),
        ("tags_header: null", "tags_header: null is not valid"),
        ("cost_header: ''", "cost_header: '' is not valid"),
        ("principal: {metadata: {namespace: jwt}}", "principal.metadata.path: missing"),
        ("upstream_credentials: [{env: A}]", "upstream_credentials[0].host: missing"),
        ("upstream_credentials: [{host: a.b}]", "upstream_credentials[0]: name env or file, one of them"),
        ("upstream_credentials: [{host: a.b, env: A, signed: true}]", "upstream_credentials[0]: name env or file"),
        ("upstream_credentials: [{host: a.b, env: A, file: b}]", "upstream_credentials[0]: name env or file"),
        ("upstream_credentials: [{host: 'https://a.b', env: A}]", "upstream_credentials[0].host: 'https://a.b'"),
        ("partial_body: allow", "partial_body"),
        ("partial_body: {hold_usd: 0}", "partial_body"),
        ("other_requests: free", "other_requests: "),
        ("free_paths: [v1/x]", "free_paths[0]: 'v1/x' is not valid"),
        ("request_changes: {include_usage: 1}", "request_changes.include_usage: 1 is not valid"),
        ("- a", "a list is not valid; write a mapping"),
        ("a: [", "line 2, column 1: not YAML"),
        ("# nothing yet", "the document is empty"),
        ("tags_header: a\ntags_header: b", "tags_header"),
    ],
)
def test_a_mistake_is_named_with_its_file_and_path(tmp_path: Path, text: str, mistake: str) -> None:
    file = tmp_path / "envoy.yaml"
    file.write_text(text)

    with pytest.raises(OptionsInvalid) as caught:
        EnvoyOptions.read(file)

    assert str(caught.value).startswith(f"{file}: ")
    assert mistake in str(caught.value)


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "envoy.yaml").write_text("{nonsense: 1, tags_header: 'a b', other_requests: free}")

    with pytest.raises(OptionsInvalid) as caught:
        EnvoyOptions.read(tmp_path / "envoy.yaml")

    assert len(caught.value.mistakes) == 3


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"envoy: .*No such file"):
        EnvoyOptions.read(tmp_path / "not-there")
