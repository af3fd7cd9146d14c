"""`limiter reserve`, `settle`, `release`, `extend`, `charge` and `headroom`."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration

from limiter.v1 import limiter_pb2 as pb
from tests.cli.conftest import CommandLine
from tests.cli.fake_sidecar import RESERVATION, FakeSidecar, at, granted, spend

SIZE = ("--model", "gpt-4o", "--input-tokens", "1000", "--max-output-tokens", "500")
DENIED = pb.ReserveResponse(
    decision=pb.ReserveResponse.DENIED,
    denial=pb.Denial(
        reason=pb.Denial.SPEND_CEILING,
        http_status=402,
        message="the spend ceiling is reached",
        violations=[spend()],
        fits_max_output_tokens=120,
    ),
)


def test_reserving_names_the_key_on_the_trusted_socket(limiter: CommandLine, sidecar: FakeSidecar) -> None:
    sidecar.answers("Reserve", granted())

    limiter.run(
        *("reserve", "acme/search/bot", *SIZE, "--unit", "images=2", "--ttl", "90s", "--request-id", "r-1"),
        *("--tag", "customer:initech", "--tag", "customer:hooli", "--tag", "feature:a:b"),
    )

    assert sidecar.request("Reserve") == pb.ReserveRequest(
        request_id="r-1",
        key_id="acme/search/bot",
        model="gpt-4o",
        estimate=pb.Estimate(input_tokens=1000, max_output_tokens=500, units={"images": 2}),
        tags=[
            pb.Tag(name="customer", value="initech"),
            pb.Tag(name="customer", value="hooli"),
            pb.Tag(name="feature", value="a:b"),
        ],
        ttl=Duration(seconds=90),
    )


def test_a_grant_is_printed_for_programs_with_exact_amounts(limiter: CommandLine, sidecar: FakeSidecar) -> None:
    sidecar.answers("Reserve", granted())

    printed = limiter.run("reserve", "acme/search/bot", *SIZE, "--format", "json").json

    assert printed["decision"] == "GRANTED"
    assert printed["reservation"] == RESERVATION
    assert (printed["held_nanousd"], printed["held_usd"]) == (7_500_000, "0.0075")
    assert printed["expires_at"] == "2027-01-15T08:00:00Z"
    assert printed["denial"] is None
    (limit,) = printed["limits"]
    assert (limit["settled"], limit["settled_usd"]) == (19_000_000_001, "19.000000001")


def test_a_grant_is_printed_for_people(limiter: CommandLine, sidecar: FakeSidecar) -> None:
    sidecar.answers("Reserve", granted())

    output = limiter.run("reserve", "acme/search/bot", *SIZE)

    assert output.row("reservation", RESERVATION)
    assert output.row("held", "0.0075 USD")
    assert output.row("daily", "20.00 USD/day", "19.000000001", "0.50", "0.499999999", "97.5 %")


def test_the_name_of_a_reservation_stays_whole_on_a_narrow_terminal(
    limiter: CommandLine, sidecar: FakeSidecar, monkeypatch: pytest.MonkeyPatch
) -> None:
    sidecar.answers("Reserve", granted())
    monkeypatch.setenv("COLUMNS", "60")

    assert limiter.run("reserve", "acme/search/bot", *SIZE).row("reservation", RESERVATION)


def test_a_refusal_has_an_exit_code_of_its_own_and_says_why(limiter: CommandLine, sidecar: FakeSidecar) -> None:
    sidecar.answers("Reserve", DENIED)

    output = limiter.run("reserve", "acme/search/bot", *SIZE, exit_code=3)

    assert output.row("denied", "SPEND_CEILING (HTTP 402)")
    assert output.row("would fit", "120 output tokens")
    assert output.row("acme/search/bot", "daily", "0.80")


def test_a_refusal_for_now_says_in_milliseconds_when_to_try_again(limiter: CommandLine, sidecar: FakeSidecar) -> None:
    denial = pb.Denial(reason=pb.Denial.REQUEST_RATE, retry_after=Duration(seconds=1, nanos=500_000_000))
    sidecar.answers("Reserve", pb.ReserveResponse(decision=pb.ReserveResponse.DENIED, denial=denial))

    printed = limiter.run("reserve", "acme/search/bot", *SIZE, "--format", "json", exit_code=3).json

    assert printed["denial"]["retry_after_ms"] == 1500


def test_reserving_by_secret_goes_to_any_listener(limiter: CommandLine, sidecar: FakeSidecar) -> None:
    sidecar.answers("Reserve", granted())

    limiter.run("reserve", "--address", sidecar.address, "--token", "t" * 16, "--api-key", "lk-secret", *SIZE)

    (asked,) = sidecar.asked
    assert asked.request.api_key == "lk-secret"
    assert asked.metadata["authorization"] == f"Bearer {'t' * 16}"


def test_a_key_on_the_command_line_goes_before_a_secret_in_the_environment(
    limiter: CommandLine, sidecar: FakeSidecar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIMITER_API_KEY", "lk-secret")
    sidecar.answers("Reserve", granted(), granted())

    limiter.run("reserve", "acme/search/bot", *SIZE)
    limiter.run("reserve", *SIZE)

    named, by_secret = sidecar.requests("Reserve")
    assert (named.key_id, by_secret.api_key) == ("acme/search/bot", "lk-secret")


def test_a_providers_request_is_sent_as_it_is(limiter: CommandLine, sidecar: FakeSidecar) -> None:
    sidecar.answers("Reserve", granted())

    limiter.run("reserve", "acme/search/bot", "--body", "-", stdin='{"model": "gpt-4o"}')

    assert sidecar.request("Reserve").provider_request == pb.ProviderRequest(
        host="api.openai.com", path="/v1/chat/completions", body=b'{"model": "gpt-4o"}'
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("acme/search/bot", "--model", "gpt-4o"), "say how large the call can become"),
        (SIZE, "say who calls"),
        (("acme/search/bot", "--api-key", "lk-x", *SIZE), "give one of them"),
        (("acme/search/bot", *SIZE, "--tag", "customer"), "write NAME:VALUE"),
        (("acme/search/bot", *SIZE, "--unit", "images=x"), "write NAME=COUNT"),
        (("acme/search/bot", *SIZE, "--cost-usd", "1"), "exclude each other"),
        (("acme/search/bot", "--cost-usd", "1.0000000001"), "at most nine decimals"),
        (("acme/search/bot", *SIZE, "--ttl", "10"), "such as 10m"),
        (("acme/search/bot", "--body", "missing.json"), "name a file that can be read"),
    ],
)
def test_a_mistake_is_found_before_anybody_is_asked(
    options: tuple[str, ...], said: str, limiter: CommandLine, sidecar: FakeSidecar
) -> None:
    output = limiter.run("reserve", *options, exit_code=2)

    assert said in " ".join(output.err.replace("│", " ").split())
    assert not sidecar.asked


def test_settling_sends_what_was_used(limiter: CommandLine, sidecar: FakeSidecar) -> None:
    sidecar.answers(
        "Settle",
        pb.SettleResponse(
            state=pb.SETTLED,
            reservation=RESERVATION,
            cost_nanousd=3_250_000,
            released_nanousd=4_250_000,
            basis=pb.Settlement.USAGE,
            usage=pb.Usage(input_tokens=900, output_tokens=100),
            warnings=["the hold had expired"],
            late=True,
        ),
    )

    output = limiter.run(
        *("settle", RESERVATION, "--input-tokens", "900", "--output-tokens", "100", "--outcome", "aborted")
    )

    assert sidecar.request("Settle") == pb.SettleRequest(
        reservation=RESERVATION,
        usage=pb.Usage(input_tokens=900, output_tokens=100),
        outcome=pb.SettleRequest.ABORTED,
    )
    assert output.row("state", "SETTLED, late")
    assert output.row("cost", "0.00325 USD")
    assert output.row("usage", "900 input tokens, 100 output tokens")
    assert output.err == "warning: the hold had expired\n"


def test_settling_by_an_error_answer_says_that_the_call_failed(
    limiter: CommandLine, sidecar: FakeSidecar, directory: Path
) -> None:
    (directory / "answer.json").write_text('{"error": {}}')

    limiter.run("settle", RESERVATION, "--response", "answer.json", "--status", "500")

    request = sidecar.request("Settle")
    assert request.outcome == pb.SettleRequest.FAILED
    assert request.provider_response == pb.ProviderResponse(
        status=500, content_type="application/json", body=b'{"error": {}}'
    )


@pytest.mark.parametrize("options", [(), ("--cost-usd", "1", "--input-tokens", "1")])
def test_settling_takes_exactly_one_account_of_what_was_used(
    options: tuple[str, ...], limiter: CommandLine, sidecar: FakeSidecar
) -> None:
    output = limiter.run("settle", RESERVATION, *options, exit_code=2)

    assert "give one of" in output.err
    assert not sidecar.asked


def test_releasing_and_extending(limiter: CommandLine, sidecar: FakeSidecar) -> None:
    sidecar.answers("Extend", pb.ExtendResponse(expires_at=at(1_900_000_000)))

    limiter.run("release", RESERVATION, "--reason", "never sent")
    output = limiter.run("extend", RESERVATION, "--ttl", "30m")

    assert sidecar.request("Release") == pb.ReleaseRequest(reservation=RESERVATION, reason="never sent")
    assert sidecar.request("Extend") == pb.ExtendRequest(reservation=RESERVATION, ttl=Duration(seconds=1800))
    assert output.row("expires", "2030-03-17 17:46:40Z")


def test_charging_books_a_cost_with_its_time(limiter: CommandLine, sidecar: FakeSidecar) -> None:
    sidecar.answers("Charge", pb.SettleResponse(state=pb.SETTLED, cost_nanousd=12_500_000))

    printed = limiter.run(
        *("charge", "acme/search/bot", "--cost-usd", "0.0125", "--occurred-at", "2026-03-01T12:00:00+01:00"),
        *("--request-id", "batch-17", "--format", "json"),
    ).json

    request = sidecar.request("Charge")
    assert (request.request_id, request.key_id, request.cost_nanousd) == ("batch-17", "acme/search/bot", 12_500_000)
    assert request.occurred_at.ToJsonString() == "2026-03-01T11:00:00Z"
    assert (printed["state"], printed["cost_usd"]) == ("SETTLED", "0.0125")


def test_headroom_shows_every_limit_by_its_kind(limiter: CommandLine, sidecar: FakeSidecar) -> None:
    rate = pb.LimitStatus(
        scope="organizations/acme",
        limit="rpm",
        kind=pb.LimitStatus.REQUESTS,
        unit="requests",
        window="minute",
        limit_value=600,
        burst=100,
        remaining=25,
    )
    slots = pb.LimitStatus(
        scope="organizations/acme",
        limit="inflight",
        kind=pb.LimitStatus.CONCURRENCY,
        unit="holds",
        limit_value=200,
        held=50,
        remaining=150,
        shadow=True,
    )
    sidecar.answers("GetHeadroom", pb.GetHeadroomResponse(limits=[spend(overage=250_000_000), rate, slots]))

    output = limiter.run("headroom", "acme/search/bot", "--model", "gpt-4o")

    assert sidecar.request("GetHeadroom") == pb.GetHeadroomRequest(key_id="acme/search/bot", model="gpt-4o")
    assert output.row("daily", "20.00 USD/day", "97.5 %", "0.25")
    assert output.row("rpm", "600 requests/minute", "25", "75.0 %")
    assert output.row("inflight (shadow)", "200 holds", "50", "150", "25.0 %")


def test_a_repeated_settlement_shows_no_usage_that_was_not_booked(limiter: CommandLine, sidecar: FakeSidecar) -> None:
    usage = pb.Usage(input_tokens=1000, output_tokens=999)
    answer = pb.SettleResponse(reservation=RESERVATION, state=pb.SETTLED, cost_nanousd=3_700_000, usage=usage)
    again = pb.SettleResponse()
    again.CopyFrom(answer)
    again.repeated_call = True
    sidecar.answers("Settle", answer, again)
    words = ("settle", RESERVATION, "--input-tokens", "1000", "--output-tokens", "999")

    assert "999 output tokens" in limiter.run(*words).out
    repeated = limiter.run(*words).out

    assert "nothing changed" in repeated
    assert "output tokens" not in repeated
