"""Addresses, credentials, deadlines and retries."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import grpc
import pytest

import limiter.client
from limiter.client import (
    TLS,
    AlreadyExists,
    AsyncClient,
    CallFailed,
    Client,
    DeadlineExceeded,
    HoldEnded,
    HoldNotFound,
    InvalidRequest,
    LimiterOverloaded,
    LimiterUnavailable,
    NotAuthenticated,
    NotPermitted,
)
from limiter.client import errors as client_errors
from tests.client.faces import result
from tests.client.fake_limiter import RESERVATION, Fails, FakeLimiter, NeverAnswers

Either = AsyncClient | Client
Connect = Callable[..., Either]

UNAVAILABLE = Fails(grpc.StatusCode.UNAVAILABLE, "store down")


@pytest.mark.parametrize("status", ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"])
async def test_what_passes_by_itself_is_sent_again_with_the_same_request_id(
    client: Either, limiter: FakeLimiter, status: str
) -> None:
    limiter.answers("Reserve", *[Fails(grpc.StatusCode[status])] * 2)
    hold = await result(client.reserve(model="m"))
    assert hold.reservation == RESERVATION
    first, second, third = limiter.requests("Reserve")
    assert first == second == third
    assert first.request_id


@pytest.mark.parametrize(
    ("status", "error"),
    [
        ("INVALID_ARGUMENT", InvalidRequest),
        ("UNAUTHENTICATED", NotAuthenticated),
        ("PERMISSION_DENIED", NotPermitted),
        ("NOT_FOUND", HoldNotFound),
        ("ALREADY_EXISTS", AlreadyExists),
        ("FAILED_PRECONDITION", HoldEnded),
        ("INTERNAL", CallFailed),
    ],
)
async def test_what_does_not_pass_by_itself_is_raised_at_once(
    client: Either, limiter: FakeLimiter, status: str, error: type[CallFailed]
) -> None:
    limiter.answers("Settle", Fails(grpc.StatusCode[status], "the reason"))
    with pytest.raises(error, match="the reason") as caught:
        await result(client.settle(RESERVATION, cost_nanousd=1))
    assert type(caught.value) is error
    assert (caught.value.code, caught.value.attempts) == (status, 1)
    assert limiter.methods() == ["Settle"]


@pytest.mark.parametrize(
    ("status", "error"), [("UNAVAILABLE", LimiterUnavailable), ("RESOURCE_EXHAUSTED", LimiterOverloaded)]
)
async def test_retries_end(
    limiter: FakeLimiter, connect: Connect, status: str, error: type[LimiterUnavailable]
) -> None:
    client = connect(limiter.address, api_key="k", retries=2)
    limiter.answers("Charge", *[Fails(grpc.StatusCode[status], "scripted")] * 9)
    with pytest.raises(error, match=r"scripted \(3 attempts\)"):
        await result(client.charge(cost_nanousd=1))
    assert len({request.request_id for request in limiter.requests("Charge")}) == 1
    assert len(limiter.asked) == 3


async def test_an_answer_that_is_lost_is_asked_for_again_within_the_timeout(
    limiter: FakeLimiter, connect: Connect
) -> None:
    client = connect(limiter.address, api_key="k", timeout=1.0, retries=9)
    limiter.answers("Reserve", NeverAnswers())
    assert (await result(client.reserve(model="m"))).reservation == RESERVATION
    assert len(limiter.asked) == 2


async def test_no_answer_within_the_timeout_is_a_deadline(limiter: FakeLimiter, connect: Connect) -> None:
    client = connect(limiter.address, api_key="k", retries=0)
    limiter.answers("Settle", NeverAnswers())
    with pytest.raises(DeadlineExceeded) as caught:
        await result(client.settle(RESERVATION, cost_nanousd=1, timeout=0.05))
    assert isinstance(caught.value, LimiterUnavailable)


async def test_a_grant_that_the_limiter_took_back_is_asked_for_under_a_new_id(
    client: Either, limiter: FakeLimiter
) -> None:
    limiter.answers("Reserve", Fails(grpc.StatusCode.DEADLINE_EXCEEDED), Fails(grpc.StatusCode.FAILED_PRECONDITION))
    await result(client.reserve(model="m"))
    first, second, third = (request.request_id for request in limiter.requests("Reserve"))
    assert first == second != third


async def test_an_ended_hold_that_no_retry_explains_is_raised(client: Either, limiter: FakeLimiter) -> None:
    limiter.answers("Reserve", Fails(grpc.StatusCode.FAILED_PRECONDITION))
    with pytest.raises(HoldEnded):
        await result(client.reserve(model="m"))
    assert limiter.methods() == ["Reserve"]


async def test_a_request_id_of_the_caller_is_never_replaced(client: Either, limiter: FakeLimiter) -> None:
    limiter.answers("Reserve", Fails(grpc.StatusCode.DEADLINE_EXCEEDED), Fails(grpc.StatusCode.FAILED_PRECONDITION))
    with pytest.raises(HoldEnded):
        await result(client.reserve(model="m", request_id="r-1"))
    assert [request.request_id for request in limiter.requests("Reserve")] == ["r-1", "r-1"]


async def test_a_limiter_that_is_not_there_is_unavailable(connect: Connect, tmp_path: Path) -> None:
    client = connect(f"unix:{tmp_path}/nobody.sock", api_key="k", retries=1)
    with pytest.raises(LimiterUnavailable):
        await result(client.reserve(model="m"))


async def test_the_environment_fills_in_what_is_not_given(
    limiter: FakeLimiter, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIMITER_ADDRESS", limiter.address)
    monkeypatch.setenv("LIMITER_API_KEY", "from-environment")
    monkeypatch.setenv("LIMITER_TOKEN", "token")
    await result(connect(None).reserve(model="m"))
    await result(connect(None, key_id="acme/search/bot", token="other").reserve(model="m"))
    first, second = limiter.asked
    assert (first.request.api_key, first.metadata["authorization"]) == ("from-environment", "Bearer token")
    assert (second.request.key_id, second.metadata["authorization"]) == ("acme/search/bot", "Bearer other")


async def test_a_unix_socket_serves_both_faces(connect: Connect, tmp_path: Path) -> None:
    limiter = FakeLimiter()
    limiter.listen(f"unix:{tmp_path}/limiter.sock")
    try:
        client = connect(limiter.address, api_key="k")
        assert (await result(client.reserve(model="m"))).reservation == RESERVATION
        assert "authorization" not in limiter.asked[0].metadata
    finally:
        limiter.close()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One self-signed certificate, good for both ends."""
    folder = tmp_path_factory.mktemp("certificates")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=limiter"
    subprocess.run(
        [*command.split(), "-addext", "subjectAltName=DNS:limiter.test", "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    return folder


@pytest.fixture
def mutual_tls(certificates: Path) -> Iterator[FakeLimiter]:
    key, cert = ((certificates / name).read_bytes() for name in ("key.pem", "cert.pem"))
    limiter = FakeLimiter()
    limiter.listen(
        credentials=grpc.ssl_server_credentials([(key, cert)], root_certificates=cert, require_client_auth=True)
    )
    yield limiter
    limiter.close()


async def test_tls_shows_a_certificate_and_the_token(
    mutual_tls: FakeLimiter, certificates: Path, connect: Connect
) -> None:
    cert, key = certificates / "cert.pem", str(certificates / "key.pem")
    tls = TLS(ca=cert, cert=cert, key=key, server_name="limiter.test")
    client = connect(mutual_tls.address, api_key="k", token="s3cret", tls=tls)
    assert (await result(client.reserve(model="m"))).reservation == RESERVATION
    assert mutual_tls.asked[0].metadata["authorization"] == "Bearer s3cret"


async def test_a_certificate_that_cannot_be_verified_is_not_trusted(
    mutual_tls: FakeLimiter, certificates: Path, connect: Connect
) -> None:
    client = connect(mutual_tls.address, api_key="k", tls=TLS(ca=certificates / "cert.pem"), retries=0)
    with pytest.raises(LimiterUnavailable):
        await result(client.reserve(model="m"))
    assert mutual_tls.asked == []


async def test_half_a_client_certificate_is_refused(connect: Connect, certificates: Path) -> None:
    with pytest.raises(InvalidRequest, match="cert and key"):
        await result(connect("127.0.0.1:1", api_key="k", tls=TLS(cert=certificates / "cert.pem")).headroom())


async def test_no_secret_is_shown(limiter: FakeLimiter, connect: Connect) -> None:
    client = connect(limiter.address, api_key="secret-key", token="secret-token")
    hold = await result(client.reserve(model="m"))
    settlement = await result(hold.settle(cost_nanousd=1))
    shown = f"{client!r} {hold!r} {settlement!r} {client._calls!r} {client._calls.connection!r}"
    assert "secret" not in shown
    assert RESERVATION not in shown
    assert limiter.address in shown
    assert "organizations/acme/reservations/01234567…" in shown


@pytest.mark.parametrize("options", [{"timeout": 0}, {"retries": -1}, {"api_key": "k", "key_id": "a/b/c"}])
def test_options_that_make_no_sense_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest):
        Client("127.0.0.1:1", **options)  # type: ignore[arg-type]


def test_a_client_can_be_made_before_there_is_a_loop() -> None:
    assert repr(AsyncClient()) == "AsyncClient('127.0.0.1:50051')"


def test_the_public_names_are_those_that_exist() -> None:
    public = {
        name
        for name, value in vars(limiter.client).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert public == set(limiter.client.__all__)


def test_every_error_of_the_tree_is_public() -> None:
    tree = {
        name
        for name, value in vars(client_errors).items()
        if isinstance(value, type) and issubclass(value, client_errors.LimiterClientError)
    }
    assert tree <= set(limiter.client.__all__)
    assert all(name in (client_errors.__doc__ or "") for name in tree)


def test_the_client_imports_only_the_contract_and_the_domain() -> None:
    for path in Path(limiter.client.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                module = node.module or ""
                assert not module.startswith("limiter.") or module.split(".")[1] in {"client", "domain", "v1"}, path
