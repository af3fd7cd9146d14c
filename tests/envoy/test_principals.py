"""Who asks, and what becomes of the headers that say so."""

from __future__ import annotations

from pathlib import Path

import pytest

from limiter.domain.errors import InvalidArgument
from limiter.envoy.credentials import Credentials
from limiter.envoy.options import EnvoyOptions
from limiter.envoy.principals import SECRET_HEADERS
from tests.envoy.checks import ANTHROPIC, GOOGLE, MESSAGES, MESSAGES_PATH, OPENAI, Front

JWT = "{principal: {metadata: {namespace: jwt, path: [claims, key]}}}"
HEADER = "{principal: {header: X-Verified-Key}}"
GEMINI_PATH = "/v1beta/openai/chat/completions"


@pytest.mark.parametrize("header", SECRET_HEADERS)
async def test_a_key_is_found_wherever_a_providers_client_puts_it(front: Front, header: str) -> None:
    await front.start()
    secret = await front.key()
    value = f"bearer  {secret}" if header == "authorization" else secret

    assert (await front.check(headers={header: value})).kind == "ok"


async def test_geminis_clients_may_show_their_key_in_the_query(front: Front) -> None:
    await front.start()
    secret = await front.key()
    path = f"{GEMINI_PATH}?alt=sse&key={secret}"

    assert (await front.check({"model": "gemini-2.5-flash", "messages": []}, host=GOOGLE, path=path)).kind == "ok"
    assert (await front.check(path=f"/v1/chat/completions?key={secret}")).status == 401


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        ({}, "no API key"),
        ({"authorization": ""}, "no API key"),
        ({"authorization": "Basic bGstOng="}, "no API key"),
        ({"authorization": "Bearer a", "x-api-key": "b"}, "several different API keys"),
        ({"authorization": "Bearer nobody"}, "the API key is not known"),
        ({"authorization": "Bearer a,Bearer b"}, "the API key is not known"),
        ({"x-api-key": "a\0b"}, "not one that Limiter could have made"),
        ({"x-api-key": "é\ufffd"}, "the API key is not known"),
        ({"x-api-key": "x" * 1000}, "not one that Limiter could have made"),
    ],
)
async def test_who_shows_no_key_of_ours_is_401(front: Front, headers: dict[str, str], why: str) -> None:
    await front.start()
    await front.key()

    answer = await front.check(headers=headers)

    assert (answer.kind, answer.status, answer.headers["x-should-retry"]) == ("denied", 401, "false")
    assert why in answer.body["error"]["message"]
    assert answer.body["error"]["code"] == "invalid_api_key"


async def test_the_same_key_in_two_headers_is_one_key(front: Front) -> None:
    await front.start()
    secret = await front.key()

    assert (await front.check(secret=secret, headers={"x-api-key": secret})).kind == "ok"


@pytest.mark.each_engine
async def test_on_a_trusted_listener_an_earlier_filter_says_who_asks(front: Front) -> None:
    await front.start(JWT)
    await front.key()
    metadata = {"jwt": {"claims": {"key": "acme/search/bot"}}}

    answer = await front.check(metadata=metadata, trusted=True)

    assert answer.kind == "ok"
    assert b"acme/search/bot" in (await front.limiter.record(answer.reservation)).call


async def test_on_a_trusted_listener_a_verified_header_says_who_asks_and_goes_no_further(front: Front) -> None:
    await front.start(HEADER)
    await front.key()

    answer = await front.check(headers={"x-verified-key": "acme/search/bot"}, trusted=True)

    assert (answer.kind, "x-verified-key" in answer.removed) == ("ok", True)


@pytest.mark.each_engine
async def test_on_any_other_listener_nobody_is_believed_to_be_somebody(front: Front) -> None:
    await front.start("{principal: {metadata: {namespace: jwt, path: [claims, key]}, header: x-verified-key}}")
    await front.key()

    answer = await front.check(
        headers={"x-verified-key": "acme/search/bot"}, metadata={"jwt": {"claims": {"key": "acme/search/bot"}}}
    )

    assert (answer.status, answer.body["limiter"]["reason"]) == (401, "KEY_MISSING")


@pytest.mark.parametrize("claims", [{}, {"key": 5}, {"key": {}}, {"key": ""}, {"keys": ["acme/search/bot"]}])
async def test_without_a_verified_identity_the_secret_decides_on_trusted_listeners_too(
    front: Front, claims: dict[str, object]
) -> None:
    await front.start(JWT)
    secret = await front.key()

    assert (await front.check(metadata={"jwt": {"claims": claims}}, trusted=True)).status == 401
    assert (await front.check(metadata={"jwt": {"claims": claims}}, trusted=True, secret=secret)).kind == "ok"


@pytest.mark.parametrize("identity", ["acme", "acme/search", "a/b/c/d", "acme/search/b\0t", "acme/search/{bot}"])
async def test_an_identity_that_is_no_key_is_401_whatever_secret_stands_beside_it(front: Front, identity: str) -> None:
    await front.start(HEADER)
    secret = await front.key()

    answer = await front.check(secret=secret, headers={"x-verified-key": identity}, trusted=True)

    assert (answer.kind, answer.status) == ("denied", 401)


async def test_the_providers_key_takes_the_place_of_the_callers(
    front: Front, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_text("sk-ant\n")
    monkeypatch.setenv("ACME_OPENAI", "sk-real")
    await front.start(f"""
        upstream_credentials:
          - {{host: api.openai.com, env: ACME_OPENAI}}
          - {{host: "api.anthropic.*", header: X-API-Key, file: "{tmp_path}/key"}}
    """)
    secret = await front.key()

    openai = await front.check(secret=secret, headers={"x-api-key": secret})
    anthropic = await front.check(MESSAGES, host=f"{ANTHROPIC}:443", path=MESSAGES_PATH, secret=secret)

    assert openai.upstream == {"authorization": "Bearer sk-real"}
    assert "x-api-key" in openai.removed
    assert "authorization" not in openai.removed  # Envoy removes after it has set
    assert anthropic.upstream == {"x-api-key": "sk-ant"}
    assert "authorization" in anthropic.removed


async def test_a_key_in_the_query_does_not_reach_a_provider_that_gets_its_own(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE", "real")
    await front.start(f"{{upstream_credentials: [{{host: {GOOGLE}, header: x-goog-api-key, env: GOOGLE}}]}}")
    path = f"{GEMINI_PATH}?key={await front.key()}"

    answer = await front.check({"model": "gemini-2.5-flash", "messages": []}, host=GOOGLE, path=path)

    assert (answer.upstream, answer.removed_parameters) == ({"x-goog-api-key": "real"}, ["key"])


async def test_without_a_key_of_the_provider_the_callers_header_goes_on(front: Front) -> None:
    await front.start()
    answer = await front.check(secret=await front.key())

    assert answer.upstream == {}
    assert not answer.removed & set(SECRET_HEADERS)


async def test_a_refused_request_gets_no_providers_key(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACME_OPENAI", "sk-real")
    await front.start(f"{{upstream_credentials: [{{host: {OPENAI}, env: ACME_OPENAI}}]}}")
    await front.key()

    answer = await front.check(secret="lk-nobody")

    assert (answer.kind, answer.upstream) == ("denied", {})
    assert "sk-real" not in str(answer)


@pytest.mark.parametrize("source", ["env: NOT_THERE", "env: EMPTY", "env: TWO_LINES", "file: /not/there"])
def test_a_credential_that_is_not_there_is_a_mistake_at_the_start(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMPTY", " ")
    monkeypatch.setenv("TWO_LINES", "sk-secret\nsk-secret")
    name, _, value = source.partition(": ")
    options = EnvoyOptions.model_validate({"upstream_credentials": [{"host": OPENAI, name: value}]})

    with pytest.raises(InvalidArgument, match=rf"upstream_credentials\[0\].{name}: ") as caught:
        Credentials(options.upstream_credentials)

    assert "sk-secret" not in str(caught.value)


def test_credentials_never_show_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACME_OPENAI", "sk-real")
    options = EnvoyOptions.model_validate({"upstream_credentials": [{"host": "*.com", "env": "ACME_OPENAI"}]})
    credentials = Credentials(options.upstream_credentials)

    assert "sk-real" not in repr(credentials.for_host(OPENAI)) + repr(credentials) + repr(vars(credentials))
