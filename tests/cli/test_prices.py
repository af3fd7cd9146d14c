"""`prices show`, `prices import` and `prices diff`: what models cost, without a sidecar."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import CommandLine

OWN = """\
version: 1
models:
  - {match: mine, provider: acme, input_per_million: "1", output_per_million: "2", source: "https://example.com"}
  - {match: mine, provider: acme, input_per_million: "3", output_per_million: "2", from: 2030-01-01}
  - {match: drawn, provider: acme, units: {images: "0.04"}}
  - {match: drawn, provider: acme, units: {images: "0.08"}, when: {quality: hd}}
  - {match: gpt-4o, provider: openai, input_per_million: "3", output_per_million: "10", context_window: 64000}
"""

LITELLM = {
    "acme/talker": {
        "litellm_provider": "acme",
        "mode": "chat",
        "input_cost_per_token": 1e-06,
        "output_cost_per_token": 2e-06,
        "max_input_tokens": 1000,
        "max_output_tokens": 100,
    },
    "acme/painter": {"litellm_provider": "acme", "mode": "image_generation", "output_cost_per_image": 0.04},
    "gpt-4o": {"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": 1e-06, "cost_per_second": 0.1},
}


@pytest.fixture
def own(directory: Path) -> Path:
    file = directory / "prices.yaml"
    file.write_text(OWN)
    return file


@pytest.fixture
def listed(directory: Path) -> Path:
    file = directory / "litellm.json"
    file.write_text(json.dumps(LITELLM))
    return file


def test_show_tells_what_a_model_costs_and_why(limiter: CommandLine) -> None:
    output = limiter.run("prices", "show", "gpt-4o")

    assert output.row("model", "gpt-4o") == ["model", "openai/gpt-4o"]
    assert output.row("priced by") == ["priced by", "genai-prices"]
    assert "128000 tokens, by limits (litellm" in output.out
    assert "16384 tokens, by limits (litellm" in output.out
    assert next(line.split() for line in output.lines if "input tokens" in line) == [
        "input",
        "tokens",
        "2.5",
        "million",
    ]
    assert any(line.startswith("service_tier=priority") for line in output.lines)


def test_show_tells_the_file_its_entry_and_when_it_changes(limiter: CommandLine, own: Path) -> None:
    output = limiter.run("prices", "show", "mine", "--prices", str(own))

    assert output.row("priced by") == ["priced by", "the price file"]
    assert output.row("entry") == ["entry", "match mine"]
    assert output.row("source") == ["source", "https://example.com"]
    assert next(line.split() for line in output.lines if "from 2030-01-01T00:00:00Z" in line)[2:5] == [
        "input",
        "tokens",
        "3",
    ]
    later = limiter.run("prices", "show", "mine", "--prices", str(own), "--at", "2030-06-01", "--format", "json").json
    assert later["prices"]["input_per_million"] == "3"
    assert later["changes"] == []


def test_show_takes_the_terms_of_a_call(limiter: CommandLine, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMITER_PRICES", str(own))

    plain = limiter.run("prices", "show", "drawn", "--format", "json").json
    fine = limiter.run("prices", "show", "drawn", "--context", "quality=hd", "--format", "json").json

    assert plain["prices"]["units"] == {"images": "0.04"}
    assert plain["variants"] == [{"context": {"quality": "hd"}, "prices": {"units": {"images": "0.08"}}}]
    assert fine["prices"] == {"units": {"images": "0.08"}, "match": "drawn", "when": {"quality": "hd"}}
    assert (fine["priced_by"], fine["provider"], fine["context_window"]) == ("file", "", None)
    assert "TERM=VALUE" in limiter.run("prices", "show", "drawn", "--context", "hd", exit_code=2).err


def test_show_of_what_only_holds_take(limiter: CommandLine) -> None:
    output = limiter.run("prices", "show", "gpt-image-1", "--context", "quality=low", "--context", "size=1024x1024")

    assert output.row("held only")[-2:] == ["0.011", "each"]


def test_a_model_without_a_price_is_a_negative_answer_with_names_like_it(limiter: CommandLine) -> None:
    output = limiter.run("prices", "show", "gpt-4oo", exit_code=1)

    assert output.out == ""
    assert "gpt-4oo has no price, so its calls are refused. Names like it: " in output.err
    assert "openai/gpt-4" in output.err
    assert "--prices" in output.err


def test_a_price_file_with_a_mistake_is_a_usage_error(limiter: CommandLine, own: Path) -> None:
    own.write_text("version: 1\nmodels: [{match: m}]")

    error = limiter.run("prices", "show", "m", "--prices", str(own), exit_code=2).err

    assert "models[0]: no price is given" in error
    assert "models[0]: no price is given" in limiter.run("prices", "diff", "builtin", str(own), exit_code=2).err


def test_import_writes_a_file_that_prices_what_was_asked_for(limiter: CommandLine, listed: Path) -> None:
    output = limiter.run("prices", "import", str(listed), "--provider", "acme", "-o", "new.yaml")

    assert output.out == "new.yaml: 2 entries; 0 prices left out\n"
    shown = limiter.run("prices", "show", "painter", "--prices", "new.yaml", "--format", "json").json
    assert shown["prices"]["units"] == {"images": "0.04"}
    assert shown["prices"]["source"].startswith("litellm, read 20")
    talker = limiter.run("prices", "show", "talker", "--prices", "new.yaml", "--format", "json").json
    assert (talker["context_window"], talker["max_output_tokens"]) == (1_000, 100)


@pytest.mark.parametrize(
    ("words", "matches"),
    [
        ((), ["painter", "talker", "gpt-4o"]),
        (("--only", "*a?k*"), ["talker"]),
        (("--except", "gpt-*"), ["painter", "talker"]),
        (("--mode", "image_generation"), ["painter"]),
        (("--unpriced",), ["painter", "talker"]),
    ],
)
def test_import_takes_what_was_asked_for(
    limiter: CommandLine, listed: Path, words: tuple[str, ...], matches: list[str]
) -> None:
    output = limiter.run("prices", "import", str(listed), *words, "-o", "new.json", "--format", "json")

    assert output.json["entries"] == len(matches)
    assert [entry["match"] for entry in json.loads(Path("new.json").read_text())["models"]] == matches


def test_import_tells_what_it_left_out(limiter: CommandLine, listed: Path) -> None:
    told = 'gpt-4o: cost_per_second: "0.1"'

    assert limiter.run("prices", "import", str(listed)).out.endswith(f"# - {told}\n")
    assert limiter.run("prices", "import", str(listed), "-o", "new.json").err == f"left out: {told}\n"


def test_import_of_several_lists_prefers_the_first(limiter: CommandLine, listed: Path, directory: Path) -> None:
    other = {"acme/talker": {**LITELLM["acme/talker"], "input_cost_per_token": 5e-06}}
    other["acme/old"] = {"litellm_provider": "acme", "mode": "chat", "input_cost_per_token": 7e-06}
    (directory / "older.json").write_text(json.dumps(other))

    limiter.run("prices", "import", str(listed), "older.json", "--provider", "acme", "-o", "new.json")

    entries = {entry["match"]: entry for entry in json.loads(Path("new.json").read_text())["models"]}
    assert entries["talker"]["input_per_million"] == "1"
    assert entries["old"]["input_per_million"] == "7"
    assert entries["old"]["source"].startswith("older, read ")


def test_import_of_limits(limiter: CommandLine, listed: Path) -> None:
    found = json.loads(limiter.run("prices", "import", str(listed), "--limits").out)

    assert found["models"] == {"acme": {"talker": [1_000, 100]}}
    assert found["source"] == "litellm.json"


def test_import_of_what_is_no_list_is_a_usage_error(limiter: CommandLine, listed: Path) -> None:
    listed.write_text("[]")

    assert "give LiteLLM's list of models" in limiter.run("prices", "import", str(listed), exit_code=2).err


def test_import_into_a_place_that_cannot_be_written_is_a_usage_error(limiter: CommandLine, listed: Path) -> None:
    assert "No such file" in limiter.run("prices", "import", str(listed), "-o", "no/such/f.yaml", exit_code=2).err


def test_diff_of_the_same_is_nothing(limiter: CommandLine, own: Path) -> None:
    assert limiter.run("prices", "diff", str(own), str(own)).out == "nothing differs\n"
    assert limiter.run("prices", "diff", "builtin", "builtin", "--format", "json").json == []


def test_diff_of_two_files_names_every_price_that_differs(limiter: CommandLine, own: Path, directory: Path) -> None:
    changed = directory / "changed.yaml"
    changed.write_text(OWN.replace('images: "0.08"', 'images: "0.10"').replace('"3", output', '"3.0", output'))

    output = limiter.run("prices", "diff", str(own), str(changed), exit_code=1)
    assert output.row("images") == ["acme/drawn (quality=hd)", "units.images", "0.08", "0.1", "+25.0 %"]

    found = limiter.run("prices", "diff", str(own), str(changed), "--format", "json", exit_code=1).json
    assert found == [
        {
            "provider": "acme",
            "model": "drawn",
            "terms": "quality=hd",
            "begins": "",
            "unit": "units.images",
            "old": "0.08",
            "new": "0.1",
            "change": "+25.0 %",
        }
    ]


def test_diff_with_the_built_in_prices_is_about_the_models_of_the_file(limiter: CommandLine, own: Path) -> None:
    output = limiter.run("prices", "diff", "builtin", str(own), exit_code=1)

    assert output.row("openai/gpt-4o", "input_per_million") == [
        "openai/gpt-4o",
        "input_per_million",
        "2.5",
        "3",
        "+20.0 %",
    ]
    assert output.row("openai/gpt-4o", "context_window")[2:4] == ["128000", "64000"]
    assert output.row("acme/drawn", "0.04")[2:] == ["—", "0.04"]
    assert not [line for line in output.lines if "claude" in line or ("output_per_million" in line and "gpt" in line)]
    back = limiter.run("prices", "diff", str(own), "builtin", exit_code=1)
    assert back.row("openai/gpt-4o", "input_per_million")[2:] == ["3", "2.5", "-16.7 %"]


def test_a_glob_is_compared_with_each_model_that_it_matches(limiter: CommandLine, own: Path) -> None:
    own.write_text('version: 1\nmodels: [{match: "sora-*", provider: openai, units: {video_seconds: "0.1"}}]')

    output = limiter.run("prices", "diff", "builtin", str(own), exit_code=1)

    assert output.row("openai/sora-2-pro", "video_seconds")[2:] == ["0.3", "0.1", "-66.7 %"]
    assert not [line for line in output.lines if line.startswith("openai/sora-2 ")]


@pytest.mark.parametrize("name", ["missing.yaml", "broken.yaml"])
def test_a_price_file_that_cannot_be_used_is_a_mistake_of_the_command_line(
    name: str, limiter: CommandLine, directory: Path
) -> None:
    (directory / "broken.yaml").write_text("version: 2")
    (directory / "calls.jsonl").write_text("{}")

    for command in (("prices", "show", "gpt-4o"), ("estimate", "--calls", "calls.jsonl")):
        output = limiter.run(*command, "--prices", name, exit_code=2)
        assert output.err.splitlines()[0].startswith(f"limiter: {name}: ")
        assert "Errno" not in output.err


def test_an_import_of_nothing_says_so(limiter: CommandLine, listed: Path) -> None:
    output = limiter.run("prices", "import", str(listed), "--provider", "nobody")

    assert "no entry" in output.err
