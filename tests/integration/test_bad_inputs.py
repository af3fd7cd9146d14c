"""Whatever is sent, the answer is typed and names the field, and what is wrong changes nothing."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from limiter.v1 import limiter_pb2 as pb
from tests.integration.books import Books, balanced_books
from tests.integration.connections import USD, Connection, of_key

POLICY = """
version: 1
settings: {{max_cost_per_call: 9007199}}
organizations:
  {organization}:
    limits:
      - {{id: all, spend: 9007199, per: total}}
      - {{id: tpm, tokens: 1000000, per: day}}
      - {{id: open, concurrency: 9}}
    teams:
      search:
        limits: [{{id: all, spend: 9007199, per: total}}]
        keys:
          bot: {{limits: [{{id: all, spend: 9007199, per: total}}], models: ["gpt-*", "no-price-*"]}}
"""

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Say hello."}], "max_completion_tokens": 50}
OPENAI = ("api.openai.com", "/v1/chat/completions")

INT64_MAX = 2**63 - 1
STRANGE_TEXTS = ("a\nb", "a\0b", "a\x1bb", "\u2028", "x" * 1_000_000)
STRANGE_IDS = ("a{b}", "a:b", "a b", "../a", "", "-a", "ä", *STRANGE_TEXTS)


@dataclass
class Subject:
    """A key of an organization with an open hold, and its books before the wrong call."""

    connection: Connection
    organization: str
    reservation: str
    before: Books

    @property
    def key(self) -> str:
        return f"{self.organization}/search/bot"


@pytest.fixture
async def subject(three: list[Connection], organization: str) -> AsyncIterator[Subject]:
    """After the test, the books must be what they were before."""
    connection = three[0]
    await connection.apply(POLICY.format(organization=organization))
    granted = await connection.grant(of_key(f"{organization}/search/bot", USD))
    subject = Subject(connection, organization, granted.reservation, await balanced_books(connection, organization))
    yield subject
    for other in three:
        assert await balanced_books(other, organization) == subject.before


async def refused(
    call: Awaitable[object], *, field: str, code: grpc.StatusCode = grpc.StatusCode.INVALID_ARGUMENT
) -> str:
    """The call must fail with this status, and the message must name the field and be short."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    details = str(caught.value.details())
    assert caught.value.code() == code, details
    assert field in details
    assert len(details) < 600
    assert "Traceback" not in details
    return details


@pytest.mark.parametrize("amount", [-1, -(2**63), 2**53, 2**53 + 1, INT64_MAX])
async def test_amounts_that_are_no_amounts(subject: Subject, amount: int) -> None:
    connection = subject.connection
    await refused(connection.reserve(of_key(subject.key, amount)), field="cost_nanousd")
    await refused(connection.settle(subject.reservation, amount), field="cost_nanousd")
    charge = pb.ChargeRequest(request_id="bill", key_id=subject.key, cost_nanousd=amount)
    await refused(connection.limiter.Charge(charge), field="cost_nanousd")


@pytest.mark.parametrize("count", [-1, 2**53 - 1, INT64_MAX])
async def test_counts_that_are_no_counts(subject: Subject, count: int) -> None:
    connection = subject.connection
    for estimate, field in (
        (pb.Estimate(input_tokens=count), "estimate.input_tokens"),
        (pb.Estimate(max_output_tokens=count), "estimate.max_output_tokens"),
        (pb.Estimate(units={"images": count}), "estimate.units.images"),
    ):
        request = pb.ReserveRequest(key_id=subject.key, model="gpt-4o", estimate=estimate)
        await refused(connection.reserve(request), field=field)
    for name in ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens"):
        usage = pb.Usage()
        setattr(usage, name, count)
        settle = pb.SettleRequest(reservation=subject.reservation, usage=usage)
        await refused(connection.limiter.Settle(settle), field=f"usage.{name}")


async def test_a_call_above_the_largest_cost(subject: Subject) -> None:
    request = of_key(subject.key, 2**53 - 1)
    assert "max_cost_per_call" in await refused(subject.connection.reserve(request), field="cost")
    enormous = pb.Estimate(input_tokens=10**12, max_output_tokens=1)
    request = pb.ReserveRequest(key_id=subject.key, model="gpt-4o", estimate=enormous)
    await refused(subject.connection.reserve(request), field="estimate")


async def test_units_without_a_price(subject: Subject) -> None:
    request = pb.ReserveRequest(key_id=subject.key, model="gpt-4o", estimate=pb.Estimate(units={"bananas": 1}))
    await refused(subject.connection.reserve(request), field="units")


async def test_nothing_to_size_a_call_by(subject: Subject) -> None:
    connection = subject.connection
    await refused(connection.reserve(pb.ReserveRequest(key_id=subject.key, model="gpt-4o")), field="size")
    await refused(connection.reserve(pb.ReserveRequest(key_id=subject.key)), field="model")
    request = pb.ReserveRequest(key_id=subject.key, estimate=pb.Estimate(input_tokens=1))
    await refused(connection.reserve(request), field="model")
    await refused(connection.limiter.Settle(pb.SettleRequest(reservation=subject.reservation)), field="actual")
    charge = pb.ChargeRequest(request_id="bill", key_id=subject.key)
    await refused(connection.limiter.Charge(charge), field="actual")


async def test_nobody_asks(subject: Subject) -> None:
    connection = subject.connection
    await refused(connection.limiter.Reserve(pb.ReserveRequest(cost_nanousd=1)), field="principal")
    await refused(connection.limiter.Charge(pb.ChargeRequest(request_id="a", cost_nanousd=1)), field="principal")
    await refused(connection.limiter.GetHeadroom(pb.GetHeadroomRequest()), field="principal")
    for secret in ("", " lk-a", "lk-a\n", "a\0b", "x" * 10_000):
        details = await refused(
            connection.public.Reserve(pb.ReserveRequest(api_key=secret, cost_nanousd=1)), field="api_key"
        )
        assert not secret.strip() or secret not in details


async def test_a_key_id_is_not_believed_on_the_public_listener(subject: Subject) -> None:
    public, denied = subject.connection.public, grpc.StatusCode.PERMISSION_DENIED
    await refused(public.Reserve(of_key(subject.key, 1)), field="key_id", code=denied)
    charge = pb.ChargeRequest(request_id="a", key_id=subject.key, cost_nanousd=1)
    await refused(public.Charge(charge), field="key_id", code=denied)
    await refused(public.GetHeadroom(pb.GetHeadroomRequest(key_id=subject.key)), field="key_id", code=denied)


async def test_ids_that_could_reach_into_another_key_of_the_store(subject: Subject) -> None:
    connection = subject.connection
    for text in STRANGE_IDS:
        for key in (
            f"{text}/search/bot",
            f"{subject.organization}/{text}/bot",
            f"{subject.organization}/search/{text}",
        ):
            await refused(connection.limiter.Reserve(of_key(key, 1)), field="key_id")
            await refused(connection.admin.CreateKey(pb.CreateKeyRequest(key=key)), field="key")
        await refused(connection.admin.ListScopes(pb.ListScopesRequest(scope=f"{text}/a")), field="scope")
    for key in ("", "a", "a/b", "a/b/c/d", f"{subject.organization}/search", "organizations/a/teams/b"):
        await refused(connection.limiter.Reserve(of_key(key, 1)), field="key_id")


@pytest.mark.parametrize("text", STRANGE_TEXTS)
async def test_texts_that_would_break_a_line_or_a_memory(subject: Subject, text: str) -> None:
    connection = subject.connection
    for field in ("request_id", "model", "provider"):
        request = of_key(subject.key, 1)
        setattr(request, field, text)
        await refused(connection.reserve(request), field=field)
    for field in ("model", "provider_request_id"):
        await refused(connection.settle(subject.reservation, 1, **{field: text}), field=field)
    release = pb.ReleaseRequest(reservation=subject.reservation, reason=text)
    await refused(connection.limiter.Release(release), field="reason")
    await refused(connection.admin.ForceRelease(release), field="reason")


async def test_request_ids_with_marks_of_the_store_are_only_texts(subject: Subject) -> None:
    """They are hashed, so that they may hold anything printable."""
    ids = ("a{b}", "a:b", "{0}", "lim1:{1}:ledger", "organizations/a", " ", "ä", "日本", "🙂" * 256, "x" * 256)
    held = [await subject.connection.grant(of_key(subject.key, 1, request_id)) for request_id in ids[:8]]
    assert len({granted.reservation for granted in held}) == 8
    for granted, request_id in zip(held, ids, strict=False):
        assert (await subject.connection.reservation(granted.reservation)).request_id == request_id
        await subject.connection.settle(granted.reservation, 0)
    subject.before = await balanced_books(subject.connection, subject.organization)
    await refused(subject.connection.reserve(of_key(subject.key, 1, "x" * 257)), field="request_id")


async def test_models_that_are_not_known_are_refused_and_not_free(subject: Subject) -> None:
    connection = subject.connection
    estimate = pb.Estimate(input_tokens=1, max_output_tokens=1)
    unpriced = await connection.deny(pb.ReserveRequest(key_id=subject.key, model="no-price-1", estimate=estimate))
    assert (unpriced.reason, unpriced.http_status) == (pb.Denial.MODEL_UNPRICED, 403)
    forbidden = await connection.deny(pb.ReserveRequest(key_id=subject.key, model="claude-x", estimate=estimate))
    assert (forbidden.reason, forbidden.http_status) == (pb.Denial.MODEL_NOT_ALLOWED, 403)
    charge = pb.ChargeRequest(request_id="a", key_id=subject.key, model="no-price-1", usage=pb.Usage(input_tokens=1))
    await refused(connection.limiter.Charge(charge), field="usage")


@pytest.mark.parametrize(
    "ttl",
    [
        Duration(),
        Duration(seconds=-1),
        Duration(nanos=999_999),
        Duration(seconds=25 * 3600),
        Duration(seconds=86_400, nanos=1_000_000),
        Duration(seconds=315_576_000_000),
        Duration(seconds=2**62),
    ],
    ids=str,
)
async def test_times_to_live_that_are_none(subject: Subject, ttl: Duration) -> None:
    await refused(subject.connection.reserve(of_key(subject.key, 1, ttl=ttl)), field="ttl")
    extend = pb.ExtendRequest(reservation=subject.reservation, ttl=ttl)
    await refused(subject.connection.limiter.Extend(extend), field="ttl")


async def test_times_that_are_none(subject: Subject) -> None:
    for at in (Timestamp(), Timestamp(seconds=-1), Timestamp(seconds=2**62), Timestamp(seconds=1, nanos=-1)):
        charge = pb.ChargeRequest(request_id="a", key_id=subject.key, cost_nanousd=1, occurred_at=at)
        await refused(subject.connection.limiter.Charge(charge), field="occurred_at")
        update = pb.UpdateKeyRequest(key=subject.key, expires_at=at)
        await refused(subject.connection.admin.UpdateKey(update), field="expires_at")
    await refused(subject.connection.limiter.Extend(pb.ExtendRequest(reservation=subject.reservation)), field="ttl")
    charge = pb.ChargeRequest(key_id=subject.key, cost_nanousd=1)
    await refused(subject.connection.limiter.Charge(charge), field="request_id")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "x",
        "organizations/acme",
        "organizations//reservations/" + "0" * 32,
        "organizations/a{b}/reservations/" + "0" * 32,
        "organizations/acme/reservations/" + "0" * 31,
        "organizations/acme/reservations/" + "0" * 33,
        "organizations/acme/reservations/" + "G" * 32,
        "organizations/acme/reservations/" + "A" * 32,
        "organizations/acme/reservations/" + "0" * 32 + "\n",
        "organizations/acme/teams/a/reservations/" + "0" * 32,
        "x" * 1_000_000,
    ],
    ids=lambda name: name[:60] or "empty",
)
async def test_names_that_are_no_reservations(subject: Subject, name: str) -> None:
    connection = subject.connection
    await refused(connection.settle(name, 1), field="reservation")
    await refused(connection.release(name), field="reservation")
    await refused(
        connection.limiter.Extend(pb.ExtendRequest(reservation=name, ttl=Duration(seconds=1))), field="reservation"
    )
    await refused(connection.reservation(name), field="reservation")
    await refused(connection.admin.ForceRelease(pb.ReleaseRequest(reservation=name)), field="reservation")


async def test_reservations_that_are_not_known_or_somebody_elses(subject: Subject) -> None:
    connection, missing = subject.connection, grpc.StatusCode.NOT_FOUND
    _, _, hold = subject.reservation.rpartition("/")
    for name in (
        f"organizations/{subject.organization}/reservations/{'0' * 32}",
        f"organizations/somebody-else/reservations/{hold}",
        f"organizations/{subject.organization}x/reservations/{hold}",
    ):
        assert "Charge" in await refused(connection.settle(name, 1), field="reservation", code=missing)
        usage = pb.SettleRequest(reservation=name, usage=pb.Usage(input_tokens=1))
        await refused(connection.limiter.Settle(usage), field="reservation", code=missing)
        body = pb.SettleRequest(reservation=name, provider_response=pb.ProviderResponse(status=200, body=b"{}"))
        await refused(connection.limiter.Settle(body), field="reservation", code=missing)
        await refused(connection.release(name), field="reservation", code=missing)
        extend = pb.ExtendRequest(reservation=name, ttl=Duration(seconds=1))
        await refused(connection.limiter.Extend(extend), field="reservation", code=missing)
        await refused(connection.reservation(name), field="reservation", code=missing)


def chat(**changes: object) -> bytes:
    return json.dumps({**CHAT, **changes}).encode()


BODIES = {
    "a key given twice": b'{"model": "gpt-4o", "max_tokens": 1, "max_tokens": 100000, "messages": []}',
    "a key given twice further down": b'{"model": "gpt-4o", "messages": [{"role": "user", "role": "system"}]}',
    "compressed": gzip.compress(chat()),
    "truncated": chat()[:-1],
    "nested too deeply": b'{"model": "gpt-4o", "messages": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "NaN": b'{"model": "gpt-4o", "max_tokens": NaN, "messages": []}',
    "Infinity": b'{"model": "gpt-4o", "max_tokens": 1, "temperature": Infinity, "messages": []}',
    "a byte order mark": b"\xef\xbb\xbf" + chat(),
    "UTF-16": chat().decode().encode("utf-16"),
    "not UTF-8": b'{"model": "gpt-4o", "messages": ["\xff"]}',
    "nothing": b"",
    "no object": b"[]",
    "text after the end": chat() + b"{}",
    "too large": b'{"model": "gpt-4o", "messages": ["' + b"x" * (4 * 2**20) + b'"]}',
    "a number of a million digits": b'{"model": "gpt-4o", "messages": [], "max_tokens": ' + b"9" * 1_000_000 + b"}",
    "no model": chat(model=None),
    "a model that is a number": chat(model=4),
    "a model with a newline": chat(model="gpt-4o\n"),
    "a model with half a surrogate": chat(model="gpt-4o").replace(b"gpt-4o", b"gpt-\\ud800"),
    "max_tokens 0": chat(max_tokens=0),
    "max_tokens negative": chat(max_tokens=-1),
    "max_tokens a text": chat(max_tokens="100"),
    "max_tokens a fraction": chat(max_tokens=1.5),
    "max_tokens true": chat(max_tokens=True),
    "max_tokens huge": chat(max_tokens=10**18),
    "n 0": chat(n=0),
    "n negative": chat(n=-5),
    "n huge": chat(n=10**9),
    "a tag without a value": chat(metadata={"tags": ["customer:"]}),
    "a tag with a newline": chat(metadata={"tags": ["customer:a\nb"]}),
    "too many tags": chat(metadata={"tags": [f"t{i}:v" for i in range(17)]}),
}


@pytest.mark.parametrize("what", BODIES)
async def test_requests_of_a_provider_that_mean_nothing_or_two_things(subject: Subject, what: str) -> None:
    sent = pb.ProviderRequest(host=OPENAI[0], path=OPENAI[1], body=BODIES[what])
    request = pb.ReserveRequest(key_id=subject.key, provider_request=sent)
    await refused(subject.connection.reserve(request), field="provider_request.body")


async def test_hosts_and_paths_that_are_not_known(subject: Subject) -> None:
    for host, path, field in (
        ("", OPENAI[1], "provider_request.host"),
        ("api.openai.com\n", OPENAI[1], "provider_request.host"),
        ("x" * 1_000_000, OPENAI[1], "provider_request.host"),
        (OPENAI[0], "", "provider_request.path"),
        (OPENAI[0], "/v1/unheard-of", "provider_request.path"),
        (OPENAI[0], "/v1/chat/completions/../../x", "provider_request.path"),
    ):
        sent = pb.ProviderRequest(host=host, path=path, body=chat())
        request = pb.ReserveRequest(key_id=subject.key, provider_request=sent)
        await refused(subject.connection.reserve(request), field=field)


@pytest.mark.parametrize("host", ["evil.example", "api.openai.com.evil.example", "api.openai.com:8443"])
async def test_a_host_that_nobody_knows_has_no_prices_whatever_its_models_are_called(
    subject: Subject, host: str
) -> None:
    sent = pb.ProviderRequest(host=host, path=OPENAI[1], body=chat())
    answer = await subject.connection.reserve(pb.ReserveRequest(key_id=subject.key, provider_request=sent))
    assert (answer.denial.reason, answer.denial.http_status) == (pb.Denial.MODEL_UNPRICED, 403)


@pytest.mark.parametrize(
    ("tags", "field"),
    [
        ([("", "a")], "tags.name"),
        ([("a b", "a")], "tags.name"),
        ([("a:b", "a")], "tags.name"),
        ([("x" * 65, "a")], "tags.name"),
        ([("a", "")], "tags.value"),
        ([("a", "b\n")], "tags.value"),
        ([("a", "b\0")], "tags.value"),
        ([("a", "x" * 257)], "tags.value"),
        ([("a", "x" * 1_000_000)], "tags.value"),
        ([(f"t{i}", "v") for i in range(17)], "tags"),
    ],
    ids=str,
)
async def test_tags_that_are_none(subject: Subject, tags: list[tuple[str, str]], field: str) -> None:
    wrong = [pb.Tag(name=name, value=value) for name, value in tags]
    await refused(subject.connection.reserve(of_key(subject.key, 1, tags=wrong)), field=field)
    charge = pb.ChargeRequest(request_id="a", key_id=subject.key, cost_nanousd=1, tags=wrong)
    await refused(subject.connection.limiter.Charge(charge), field=field)


async def test_an_outcome_that_is_none(subject: Subject) -> None:
    request = pb.SettleRequest(reservation=subject.reservation, cost_nanousd=1)
    request.MergeFromString(b"\x28\x63")  # outcome = 99, as a newer caller might send
    await refused(subject.connection.limiter.Settle(request), field="outcome")


async def test_a_message_that_is_no_message(subject: Subject) -> None:
    channel = grpc.aio.insecure_channel(subject.connection.sidecar.trusted)
    try:
        reserve = channel.unary_unary("/limiter.v1.Limiter/Reserve")
        await refused(reserve(b"\xff\xff\xff"), field="request")
        unknown = channel.unary_unary("/limiter.v1.Limiter/Bribe")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await unknown(b"")
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    finally:
        await channel.close()


async def test_pages_and_rows_that_are_none(subject: Subject) -> None:
    admin = subject.connection.admin
    for size in (-1, 1001, 2**31 - 1):
        await refused(admin.ListKeys(pb.ListKeysRequest(page_size=size)), field="page_size")
        await refused(admin.ListReservations(pb.ListReservationsRequest(page_size=size)), field="page_size")
    for token in ("a -1", f"{subject.organization} x", f"{subject.organization} {2**70}"):
        await refused(admin.ListReservations(pb.ListReservationsRequest(page_token=token)), field="page_token")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        _ = [row async for row in admin.ReadLedger(pb.ReadLedgerRequest(last=-1))]
    assert "last" in str(caught.value.details())


ANSWERS = {
    "nothing": b"",
    "no JSON": b"not json",
    "no object": b"[]",
    "nested too deeply": b"[" * 100_000,
    "compressed": gzip.compress(b"{}"),
    "a negative count": b'{"usage": {"prompt_tokens": -5}}',
    "not UTF-8": b"\xff\xfe",
}


@pytest.mark.parametrize("what", ANSWERS)
async def test_answers_of_a_provider_that_cannot_be_read_leave_the_hold_open(subject: Subject, what: str) -> None:
    answer = pb.ProviderResponse(status=200, content_type="application/json", body=ANSWERS[what])
    settle = pb.SettleRequest(reservation=subject.reservation, provider_response=answer)
    await refused(subject.connection.limiter.Settle(settle), field="provider_response.body")
    answer = pb.ProviderResponse(status=0, body=b"{}")
    settle = pb.SettleRequest(reservation=subject.reservation, provider_response=answer)
    await refused(subject.connection.limiter.Settle(settle), field="provider_response.status")


async def test_an_answer_of_a_provider_that_tells_no_usage_costs_the_hold(
    three: list[Connection], organization: str
) -> None:
    await three[0].apply(POLICY.format(organization=organization))
    answers = (
        pb.ProviderResponse(status=200, content_type="application/json", body=b"{}"),
        pb.ProviderResponse(status=200, content_type="application/json", body=b'{"usage": null, "id": "a"}'),
        pb.ProviderResponse(status=200, content_type="text/event-stream", body=b'data: {"choices": []}\n\n'),
    )
    for number, answer in enumerate(answers):
        granted = await three[0].grant(of_key(f"{organization}/search/bot", USD + number))
        settle = pb.SettleRequest(reservation=granted.reservation, provider_response=answer)
        settled = await three[number % 3].limiter.Settle(settle)
        assert (settled.cost_nanousd, settled.basis) == (USD + number, pb.Settlement.ESTIMATED)
        assert settled.warnings
    books = await balanced_books(three[0], organization)
    assert books.settled(organization) == sum(USD + number for number in range(len(answers)))


async def test_zero_is_an_amount(three: list[Connection], organization: str) -> None:
    await three[0].apply(POLICY.format(organization=organization))
    granted = await three[0].grant(of_key(f"{organization}/search/bot", 0))
    assert granted.held_nanousd == 0
    assert (await three[1].settle(granted.reservation, 0)).cost_nanousd == 0
    books = await balanced_books(three[0], organization)
    assert books.settled(organization) == 0
    assert len(books.money_rows()) == 1
