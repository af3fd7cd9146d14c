"""What a policy document means, exactly, and how it travels."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter.domain.errors import InvalidArgument
from limiter.domain.limits import RATE_MAX, RATE_PERIODS, SPEND_WINDOWS, Limit, LimitKind
from limiter.domain.mistakes import MISTAKES_MAX
from limiter.domain.money import SUM_MAX_NANOUSD
from limiter.domain.reservations import OnExpiry, Sizing
from limiter.policy.document import (
    OrganizationPolicy,
    PolicyInvalid,
    limits_to_yaml,
    parse_limits,
    parse_policy,
    policy_to_yaml,
)
from limiter.policy.yaml_text import DOCUMENT_MAX_BYTES, VALUES_MAX

ROOT = Path(__file__).parents[2]
POLICIES = Path(__file__).parent / "policies"


def organization(body: str, *, name: str = "acme") -> OrganizationPolicy:
    return parse_policy(f"version: 1\norganizations:\n  {name}: {body}\n").organizations[name]


def mistakes(text: str) -> list[str]:
    with pytest.raises(PolicyInvalid) as refusal:
        parse_policy(text)
    return [str(mistake) for mistake in refusal.value.mistakes]


ids = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,8}", fullmatch=True)
printable = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S")), min_size=1, max_size=20)
patterns = printable.filter(lambda text: "[" not in text and "]" not in text)
pattern_lists = st.lists(patterns, min_size=1, max_size=3).map(tuple)
names = printable | st.sampled_from(
    ["no", "1e3", "0o7", "08", "1_0", "1:30", "~", "null", "true", "1.5", "-3", "<<", "*"]
)


@st.composite
def limit_lists(draw: st.DrawFn) -> tuple[Limit, ...]:
    found = []
    for name in draw(st.lists(ids, max_size=4, unique=True)):
        kind = draw(st.sampled_from(LimitKind))
        fields: dict[str, Any] = {"shadow": draw(st.booleans()), "models": draw(st.just(()) | pattern_lists)}
        if kind is LimitKind.SPEND:
            fields["amount"] = draw(st.integers(0, SUM_MAX_NANOUSD))
            fields["per"] = draw(st.sampled_from(SPEND_WINDOWS))
            fields["warn_at"] = tuple(sorted(draw(st.sets(st.integers(1, 1_000_000), max_size=3))))
        elif kind is LimitKind.CONCURRENCY:
            fields["amount"] = draw(st.integers(0, 10**9))
        else:
            fields["amount"] = draw(st.integers(0, RATE_MAX))
            fields["per"] = draw(st.sampled_from(sorted(RATE_PERIODS)))
            fields["burst"] = draw(st.integers(1, RATE_MAX)) if fields["amount"] else 0
        found.append(Limit(id=name, kind=kind, **fields))
    return tuple(found)


@given(limit_lists())
def test_limits_mean_the_same_when_they_are_written_and_read_again(limits: tuple[Limit, ...]) -> None:
    assert parse_limits(limits_to_yaml(limits)) == limits


@given(st.dictionaries(ids, limit_lists(), max_size=2), st.dictionaries(names, names, max_size=3), names)
def test_a_policy_means_the_same_as_yaml_and_as_json(
    limits: dict[str, tuple[Limit, ...]], aliases: dict[str, str], tag: str
) -> None:
    aliases = {alias: model for alias, model in aliases.items() if model not in aliases}
    tree = {
        "aliases": aliases,
        "limits": [],
        "teams": {name: {"keys": {"k": {"tags": {"t": tag}, "limits": []}}} for name in limits},
    }
    policy = organization(json.dumps(tree, ensure_ascii=False))
    teams = {
        name: team.model_copy(update={"limits": limits[name], "key_defaults": team.key_defaults})
        for name, team in policy.rules.teams.items()
    }
    policy = OrganizationPolicy("acme", policy.rules.model_copy(update={"teams": teams}))
    assert OrganizationPolicy.from_json(policy.to_json()) == policy
    assert parse_policy(policy_to_yaml([policy])).organizations == {"acme": policy}
    assert parse_policy(policy.to_json()).organizations == {"acme": policy}


def test_money_is_read_exactly() -> None:
    limits = parse_policy((POLICIES / "good_exact_numbers.yaml").read_text()).organizations["acme"].rules.limits
    assert {limit.id: limit.amount for limit in limits} == {
        "tenth": 100_000_000,
        "nano": 1,
        "most": SUM_MAX_NANOUSD,
        "quoted": 12_500_000_000,
        "nothing": 0,
    }
    assert limits[-1].warn_at == (1, 500_000, 1_000_000)


@given(st.integers(0, SUM_MAX_NANOUSD))
def test_no_amount_loses_a_digit(nanousd: int) -> None:
    text = f"{Decimal(nanousd).scaleb(-9):f}"
    (limit,) = parse_limits(f"[{{id: a, spend: {text}, per: day}}]")
    assert limit.amount == nanousd


@given(st.text(max_size=40) | st.text("0123456789._-+exob:inf", max_size=12))
def test_whatever_stands_where_money_should_is_read_exactly_or_refused(text: str) -> None:
    """A scalar never becomes another amount than its digits say."""
    try:
        limits = parse_limits(f"- id: a\n  per: day\n  spend: {text}\n")
    except PolicyInvalid:
        return
    plain = text.partition(" #")[0].strip().strip("'\"")
    assert Decimal(limits[0].amount) == Decimal(plain) * 10**9


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    for read in (parse_policy, parse_limits, OrganizationPolicy.from_json):
        try:
            read(text)
        except PolicyInvalid as refusal:
            assert str(refusal)  # noqa: PT017 refusing is one of two right outcomes


def test_words_that_yaml_guesses_at_are_names() -> None:
    policy = parse_policy((POLICIES / "good_looks_like_something_else.yaml").read_text())
    rules = policy.organizations["no"].rules
    assert rules.aliases == {"off": "gpt-4o", "1e3": "4"}
    assert list(rules.teams["007"].keys) == ["1.50", "true"]
    assert rules.teams["007"].keys["true"].tags == {"country": "no", "at": "1:30"}


def test_every_field_arrives() -> None:
    policy = parse_policy((POLICIES / "good_every_field.yaml").read_text()).organizations["acme"]
    rules = policy.rules
    assert (rules.timezone, rules.enabled, rules.models) == ("Asia/Kathmandu", False, ("*",))
    assert rules.limits == rules.teams["search"].limits
    assert rules.limits == (
        Limit(
            "s",
            LimitKind.SPEND,
            1_500_000_000,
            "quarter",
            0,
            ("gpt-?", "o3*"),
            shadow=True,
            warn_at=(250_000, 10**6),
            sizing=Sizing.LEARNED,
        ),
        Limit("r", LimitKind.REQUESTS, 10, "second", 1),
        Limit("t", LimitKind.TOKENS, RATE_MAX, "day", RATE_MAX),
        Limit("c", LimitKind.CONCURRENCY, 0),
    )
    bot = rules.teams["search"].keys["bot"]
    assert bot.limits == ()
    assert bot.tags == {"customer": "globex"}


def test_each_organization_has_the_documents_settings_and_aliases() -> None:
    policy = parse_policy((POLICIES / "good_every_field.yaml").read_text())
    acme, globex = (policy.organizations[name].rules for name in ("acme", "globex"))
    assert acme.settings.on_expiry is OnExpiry.CHARGE
    assert globex.settings.on_expiry is OnExpiry.RELEASE
    assert acme.settings.ttl == globex.settings.ttl == 86_400_000
    assert acme.aliases == {"my-azure-deployment": "gpt-4o", "another": "gpt-5"}
    assert globex.aliases == {"my-azure-deployment": "gpt-4o"}


def test_policies_are_equal_by_content_and_so_is_their_json() -> None:
    one = organization("{timezone: UTC, teams: {a: {}, b: {enabled: true}}, limits: [{id: x, spend: 1.50, per: day}]}")
    two = organization("{limits: [{per: day, spend: 1.5, id: x}], teams: {b: {}, a: {}}}")
    three = organization("{limits: [{per: day, spend: 1.51, id: x}], teams: {b: {}, a: {}}}")
    assert one == two != three
    assert one.to_json() == two.to_json() != three.to_json()


def test_a_policy_cannot_be_changed() -> None:
    policy = organization("{teams: {a: {}}}")
    with pytest.raises(AttributeError):
        policy.id = "other"  # type: ignore[misc]
    with pytest.raises(ValueError, match="frozen"):
        policy.rules.timezone = "UTC"  # type: ignore[misc]
    with pytest.raises(TypeError):
        policy.rules.teams["b"] = policy.rules.teams["a"]  # type: ignore[index]
    with pytest.raises(TypeError):
        policy.rules.teams["a"].keys["b"] = None  # type: ignore[index]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[" * 100_000,
        '{"version":1,"organizations":{}}',
        '{"version":1,"organizations":{"a":{},"b":{}}}',
        '{"version":1,"organizations":{"a":{"limits":[{"id":"a","spend":1e999999,"per":"day"}]}}}',
        '{"version":1,"organizations":{"a":{"limits":[{"id":"a","spend":NaN,"per":"day"}]}}}',
    ],
)
def test_json_that_nobody_wrote_is_refused(text: str) -> None:
    with pytest.raises(PolicyInvalid):
        OrganizationPolicy.from_json(text)


def test_a_refusal_is_an_invalid_argument() -> None:
    with pytest.raises(InvalidArgument) as refusal:
        parse_policy("version: 2\norganizations: {}\n")
    assert (refusal.value.field, refusal.value.remedy) == ("policy", "correct the mistakes listed")


def test_limits_of_their_own_are_a_list() -> None:
    assert parse_limits("[]") == ()
    with pytest.raises(PolicyInvalid) as refusal:
        parse_limits("- {id: a, spend: 1, per: day, spend: 2}\n- {id: a, concurrency: x}\n")
    assert str(refusal.value).splitlines() == [
        "limits[0].spend: line 1: given twice, first in line 1; remove one",
        "limits[1].concurrency: 'x' is not valid; write a whole number from 0 to 1000000000 in plain digits",
        "limits[1].id: 'a' is taken by limits[0]; name each limit differently",
    ]


def test_a_document_that_is_too_large_is_refused_unread() -> None:
    assert mistakes("é" * (DOCUMENT_MAX_BYTES // 2 + 1)) == [
        f"the document has {DOCUMENT_MAX_BYTES + 2} bytes; the most is {DOCUMENT_MAX_BYTES}"
    ]


def test_aliases_of_aliases_do_not_explode() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    assert mistakes("\n".join(lines)) == [f"line 7: more than {VALUES_MAX} values, aliases written out"]


def test_mistakes_beyond_a_bound_are_not_listed() -> None:
    keys = ", ".join(f"k{n}: {{x: 1}}" for n in range(MISTAKES_MAX + 50))
    with pytest.raises(PolicyInvalid) as refusal:
        organization(f"{{teams: {{a: {{keys: {{{keys}}}}}}}}}")
    assert len(refusal.value.mistakes) == MISTAKES_MAX
    assert str(refusal.value).splitlines()[MISTAKES_MAX:] == ["further mistakes are not listed: correct these first"]


def test_text_that_is_no_unicode_is_refused() -> None:
    assert mistakes("version: \ud800") == ["character 9 is no Unicode character; write UTF-8"]


def test_the_example_policy_is_good() -> None:
    policy = parse_policy((ROOT / "deploy" / "policy.example.yaml").read_text(encoding="utf-8"))
    assert list(policy.organizations) == ["acme"]
    assert parse_policy(policy_to_yaml(policy.organizations.values())) == policy
