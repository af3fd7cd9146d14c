"""Every policy in policies/: the good ones are read, the bad ones are refused with exactly the lines they announce."""

from pathlib import Path

import pytest

from limiter.policy.document import OrganizationPolicy, PolicyInvalid, parse_policy, policy_to_yaml

POLICIES = Path(__file__).parent / "policies"
ANNOUNCED = "# refused: "


def files(kind: str) -> list[str]:
    return sorted(path.name for path in POLICIES.glob(f"{kind}_*.yaml"))


def test_there_are_policies_to_read() -> None:
    assert len(files("bad")) >= 90
    assert len(files("good")) >= 4


@pytest.mark.parametrize("name", files("bad"))
def test_a_bad_policy_is_refused_with_every_mistake(name: str) -> None:
    text = (POLICIES / name).read_text(encoding="utf-8")
    expected = [line.removeprefix(ANNOUNCED) for line in text.splitlines() if line.startswith(ANNOUNCED)]
    with pytest.raises(PolicyInvalid) as refusal:
        parse_policy(text)
    assert str(refusal.value).splitlines() == expected
    assert len(refusal.value.mistakes) == len(expected)


@pytest.mark.parametrize("name", files("good"))
def test_a_good_policy_means_the_same_when_it_is_written_and_read_again(name: str) -> None:
    policy = parse_policy((POLICIES / name).read_text(encoding="utf-8"))
    assert parse_policy(policy_to_yaml(policy.organizations.values())) == policy
    for organization in policy.organizations.values():
        assert OrganizationPolicy.from_json(organization.to_json()) == organization
