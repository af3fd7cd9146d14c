"""Host and path tell whose call it is, in which interface it is written, and what it asks for."""

from __future__ import annotations

import pytest

from limiter.domain.calls import OPERATIONS
from limiter.domain.errors import InvalidArgument
from limiter.pricing.book import PriceBook
from limiter.pricing.hosts import Endpoint, endpoint, is_free
from limiter.pricing.known_hosts import BY_PATH, HOSTS, PATTERNS
from limiter.pricing.paths import Dialect
from tests.pricing.usages import NOW_MS

GEMINI = "generativelanguage.googleapis.com"
VERTEX = "europe-west4-aiplatform.googleapis.com"
BEDROCK = "bedrock-runtime.us-east-1.amazonaws.com"
PROJECT = "/v1beta1/projects/acme/locations/europe-west4"


@pytest.mark.parametrize(
    ("host", "path", "provider", "dialect"),
    [
        ("API.OpenAI.com:443", "/v1/chat/completions?x=1", "openai", Dialect.OPENAI_CHAT),
        ("api.openai.com.", "/v1/responses/compact", "openai", Dialect.OPENAI_RESPONSES),
        ("api.openai.com", "/v1/images/edits", "openai", Dialect.OPENAI_IMAGES),
        ("api.openai.com", "/v1/audio/translations", "openai", Dialect.OPENAI_TRANSCRIPTIONS),
        ("api.openai.com", "/v1/completions", "openai", Dialect.OPENAI_COMPLETIONS),
        ("api.groq.com", "/openai/v1/audio/transcriptions", "groq", Dialect.OPENAI_TRANSCRIPTIONS),
        ("api.deepseek.com", "/responses", "deepseek", Dialect.OPENAI_RESPONSES),
        ("api.deepseek.com", "/anthropic/v1/messages", "deepseek", Dialect.ANTHROPIC_MESSAGES),
        ("api.mistral.ai", "/v1/fim/completions", "mistral", Dialect.OPENAI_COMPLETIONS),
        ("api.mistral.ai", "/v1/ocr", "mistral", Dialect.OCR),
        ("api.cohere.com", "/v2/chat", "cohere", Dialect.COHERE_CHAT),
        ("api.cohere.ai", "/v1/rerank", "cohere", Dialect.RERANK),
        ("openrouter.ai", "/api/v1/chat/completions", "openrouter", Dialect.OPENAI_CHAT),
        (GEMINI, "/v1beta/openai/chat/completions", "google", Dialect.OPENAI_CHAT),
        ("acme.openai.azure.com", "/openai/v1/responses", "azure", Dialect.OPENAI_RESPONSES),
        ("acme.openai.azure.com", "/openai/responses?api-version=preview", "azure", Dialect.OPENAI_RESPONSES),
        ("acme.services.ai.azure.com", "/anthropic/v1/messages", "azure", Dialect.ANTHROPIC_MESSAGES),
        ("bedrock-mantle.us-east-1.api.aws", "/v1/responses", "aws", Dialect.OPENAI_RESPONSES),
        (BEDROCK, "/openai/v1/chat/completions", "aws", Dialect.OPENAI_CHAT),
        ("router.huggingface.co", "/nebius/v1/chat/completions", "huggingface_nebius", Dialect.OPENAI_CHAT),
        ("router.huggingface.co", "/groq/openai/v1/chat/completions", "huggingface_groq", Dialect.OPENAI_CHAT),
        ("router.huggingface.co", "/v1/chat/completions", "huggingface", Dialect.OPENAI_CHAT),
        ("acme-eu.snowflakecomputing.com", "/api/v2/cortex/v1/chat/completions", "snowflake", Dialect.OPENAI_CHAT),
        ("us.inference.heroku.com", "/v1/chat/completions", "heroku", Dialect.OPENAI_CHAT),
        ("api.cloudflare.com", "/client/v4/accounts/ab12/ai/v1/embeddings", "cloudflare", Dialect.OPENAI_EMBEDDINGS),
        ("api.voyageai.com", "/v1/rerank", "voyageai", Dialect.RERANK),
    ],
)
def test_the_host_tells_the_provider_and_the_path_the_interface(
    host: str, path: str, provider: str, dialect: Dialect
) -> None:
    found = endpoint(host, path)
    assert (found.provider, found.dialect, found.model) == (provider, dialect, "")
    assert found.operation in OPERATIONS


@pytest.mark.parametrize(
    ("host", "path", "found"),
    [
        (
            GEMINI,
            "/v1beta/models/gemini-2.5-flash:generateContent",
            Endpoint("google", Dialect.GEMINI, "gemini-2.5-flash", "chat", stream=False),
        ),
        (
            GEMINI,
            "/v1beta/models/gemini-2.5-flash%3AstreamGenerateContent?alt=sse",
            Endpoint("google", Dialect.GEMINI, "gemini-2.5-flash", "chat", stream=True),
        ),
        (
            GEMINI,
            "/v1/models/gemini-embedding-001:batchEmbedContents",
            Endpoint("google", Dialect.GEMINI_EMBEDDINGS, "gemini-embedding-001", "embeddings", stream=False),
        ),
        (
            VERTEX,
            f"{PROJECT}/publishers/google/models/gemini-2.5-pro:streamGenerateContent",
            Endpoint("google", Dialect.GEMINI, "gemini-2.5-pro", "chat", stream=True),
        ),
        (
            "aiplatform.googleapis.com",
            "/v1/publishers/google/models/imagen-4.0-generate-001:predict",
            Endpoint("google", Dialect.VERTEX_PREDICT, "imagen-4.0-generate-001", "images", stream=False),
        ),
        (
            VERTEX,
            f"{PROJECT}/publishers/google/models/veo-3.0-generate-001:predictLongRunning",
            Endpoint("google", Dialect.VERTEX_PREDICT, "veo-3.0-generate-001", "video", stream=False),
        ),
        (
            VERTEX,
            f"{PROJECT}/publishers/google/models/text-embedding-005:predict",
            Endpoint("google", Dialect.VERTEX_PREDICT, "text-embedding-005", "embeddings", stream=False),
        ),
        (
            VERTEX,
            f"{PROJECT}/publishers/anthropic/models/claude-sonnet-4-5@20250929:streamRawPredict",
            Endpoint("google", Dialect.ANTHROPIC_MESSAGES, "claude-sonnet-4-5@20250929", "chat", stream=True),
        ),
        (
            BEDROCK,
            "/model/us.amazon.nova-micro-v1%3A0/converse-stream",
            Endpoint("aws", Dialect.BEDROCK_CONVERSE, "us.amazon.nova-micro-v1:0", "chat", stream=True),
        ),
        (
            "bedrock-runtime-fips.us-gov-west-1.amazonaws.com",
            "/model/anthropic.claude-3-haiku-20240307-v1:0/invoke",
            Endpoint("aws", Dialect.ANTHROPIC_MESSAGES, "anthropic.claude-3-haiku-20240307-v1:0", "chat", stream=False),
        ),
        (
            BEDROCK,
            "/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A1%3Ainference-profile%2Fus.amazon.nova-lite-v1%3A0/invoke",
            Endpoint("aws", Dialect.BEDROCK_INVOKE, "us.amazon.nova-lite-v1:0", "chat", stream=False),
        ),
        (
            BEDROCK,
            "/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A1%3Aapplication-inference-profile%2Fx9/converse",
            Endpoint(
                "aws",
                Dialect.BEDROCK_CONVERSE,
                "arn:aws:bedrock:us-east-1:1:application-inference-profile/x9",
                "chat",
                stream=False,
            ),
        ),
        (
            "acme.openai.azure.com",
            "/openai/deployments/gpt-4o/embeddings?api-version=1",
            Endpoint("azure", Dialect.OPENAI_EMBEDDINGS, "gpt-4o", "embeddings"),
        ),
    ],
)
def test_a_model_in_the_path_is_read_from_there_and_so_is_the_stream(host: str, path: str, found: Endpoint) -> None:
    assert endpoint(host, path) == found


@pytest.mark.parametrize(
    "model",
    [
        "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
        "eu.anthropic.claude-sonnet-4-5-20250929-v1:0",
        "apac.anthropic.claude-sonnet-4-20250514-v1:0",
        "global.anthropic.claude-sonnet-4-5-20250929-v1:0",
        "us.amazon.nova-2-lite-v1:0",
        "apac.amazon.nova-lite-v1:0",
        "us.deepseek.r1-v1:0",
    ],
)
def test_the_region_before_a_model_of_bedrock_leads_to_its_price(book: PriceBook, model: str) -> None:
    found = endpoint(BEDROCK, f"/model/{model.replace(':', '%3A')}/converse")
    price = book.find(provider=found.provider, model=found.model, at_ms=NOW_MS)
    assert price is not None
    if "claude-sonnet-4-5" in model:
        assert price.model.startswith("global." if model.startswith("global.") else "regional.")


@pytest.mark.parametrize(
    "host",
    [
        "api.openai.com.evil.example",
        "evil-api.openai.com",
        "openai.com",
        "a.b.openai.azure.com",
        "acme.openai.azure.com.evil.example",
        "bedrock-runtime.us-east-1.amazonaws.com.evil.example",
        "xaiplatform.googleapis.com",
        "evil.googleapis.com",
        "api.openai.com:8443",
        "localhost:11434",
        "anthropic.corp.internal",
        "[::1]:8080",
    ],
)
def test_a_host_that_nobody_knows_is_its_own_provider_and_has_no_listed_price(book: PriceBook, host: str) -> None:
    found = endpoint(host, "/gateway/openai/v1/chat/completions")
    assert (found.provider, found.dialect) == (host, Dialect.OPENAI_CHAT)
    assert book.find(provider=found.provider, model="gpt-4o", at_ms=NOW_MS) is None


@pytest.mark.parametrize(
    ("path", "dialect", "model"),
    [
        ("/chat/completions", Dialect.OPENAI_CHAT, ""),
        ("/anthropic/v1/messages", Dialect.ANTHROPIC_MESSAGES, ""),
        ("/openai/responses", Dialect.OPENAI_RESPONSES, ""),
        ("/v1/embeddings", Dialect.OPENAI_EMBEDDINGS, ""),
        ("/v1/completions", Dialect.OPENAI_COMPLETIONS, ""),
        ("/proxy/v1beta/models/gemini-2.5-flash:generateContent", Dialect.GEMINI, "gemini-2.5-flash"),
        ("/bedrock/model/amazon.nova-micro-v1%3A0/converse", Dialect.BEDROCK_CONVERSE, "amazon.nova-micro-v1:0"),
        ("/apim/openai/deployments/gpt-4o/chat/completions", Dialect.OPENAI_CHAT, "gpt-4o"),
        (f"/vertex{PROJECT}/publishers/google/models/gemini-2.5-pro:generateContent", Dialect.GEMINI, "gemini-2.5-pro"),
    ],
)
def test_at_an_unknown_host_the_end_of_the_path_tells_the_interface(path: str, dialect: Dialect, model: str) -> None:
    found = endpoint("gateway.example", path)
    assert (found.provider, found.dialect, found.model) == ("gateway.example", dialect, model)


@pytest.mark.parametrize(
    ("host", "path"),
    [
        ("api.openai.com", "/v1/files"),
        ("api.openai.com", "/v1/chat/../chat/completions"),
        ("api.openai.com", "//v1/chat/completions"),
        ("api.openai.com", "/v1/chat%2Fcompletions"),
        ("api.openai.com", "/v1/messages"),
        ("acme.openai.azure.com", "/openai/deployments/a/b/chat/completions"),
        (GEMINI, "/v1beta/models/gemini-2.5-flash"),
        (GEMINI, "/v1beta/models/a/b:generateContent"),
        (BEDROCK, "/model/a/b/converse"),
        (BEDROCK, "/model/%ff/converse"),
        (BEDROCK, "/model/a%0Ab/converse"),
        (VERTEX, f"{PROJECT}/publishers/anthropic/models/claude:generateContent"),
        ("gateway.example", "/v1/completions/../embeddings"),
        ("gateway.example", "/v1/chat/completions/..%2fembeddings"),
        ("gateway.example", "/v1//embeddings"),
        ("gateway.example", "/v1/chat/completions;/embeddings"),
        ("gateway.example", "/login"),
        ("gateway.example", ""),
        ("gateway.example", "/" + "x" * 3_000 + "/embeddings"),
    ],
)
def test_a_path_that_is_not_read_is_refused_with_its_field(host: str, path: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        endpoint(host, path)
    assert caught.value.field == "provider_request.path"


def test_a_refusal_of_a_path_names_those_that_are_read() -> None:
    with pytest.raises(InvalidArgument, match="send an estimate instead, or use one of /v1/chat/completions"):
        endpoint("api.openai.com", "/v1/files")


@pytest.mark.parametrize("host", ["", " ", "a b", "host/path", "host:port", "-x", "ex\nample", "ä.example", "x" * 300])
def test_what_is_no_host_is_refused(host: str) -> None:
    with pytest.raises(InvalidArgument, match="send an estimate instead") as caught:
        endpoint(host, "/v1/chat/completions")
    assert caught.value.field == "provider_request.host"


@pytest.mark.parametrize(
    ("host", "path"),
    [
        ("api.anthropic.com", "/v1/messages/count_tokens"),
        (GEMINI, "/v1beta/models/gemini-2.5-flash:countTokens"),
        (BEDROCK, "/model/us.amazon.nova-lite-v1%3A0/count-tokens"),
        ("api.openai.com", "/v1/responses/input_tokens"),
    ],
)
def test_counting_tokens_costs_nothing_and_needs_no_hold(host: str, path: str) -> None:
    assert is_free(host, path)
    with pytest.raises(InvalidArgument, match="costs nothing"):
        endpoint(host, path)


@pytest.mark.parametrize(
    ("host", "path"),
    [
        ("api.anthropic.com", "/v1/messages/batches"),
        ("api.openai.com", "/v1/batches"),
        (GEMINI, "/v1beta/models/gemini-2.5-flash:batchGenerateContent"),
        (BEDROCK, "/async-invoke"),
    ],
)
def test_work_that_is_done_later_is_refused_with_what_to_do_instead(host: str, path: str) -> None:
    assert not is_free(host, path)
    with pytest.raises(InvalidArgument, match="Charge"):
        endpoint(host, path)


def test_every_listed_host_is_found_and_every_operation_is_known() -> None:
    hosts = [*HOSTS.items(), *((written, host) for written, _, host in PATTERNS)]
    hosts += [(name, host) for name, (_, host) in BY_PATH.items()]
    for name, host in hosts:
        assert host.paths, name
        for _, interface in host.interfaces:
            shapes = [*interface.fixed.values(), *(shape for _, shape in interface.patterns)]
            assert {shape.operation for shape in shapes} <= set(OPERATIONS)
    for name, host in HOSTS.items():
        prefix, interface = host.interfaces[0]
        fixed = next((path for path, shape in interface.fixed.items() if not shape.remedy), None)
        if fixed is not None:
            assert endpoint(name, prefix + fixed).provider == host.provider


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("bedrock-runtime.eu-central-1.amazonaws.com", True),
        ("bedrock-runtime.us-gov-east-1.amazonaws.com", True),
        ("bedrock-runtime.eu-central-1.api.aws", True),
        ("vpce-1.bedrock-runtime.us-east-1.vpce.amazonaws.com", True),
        ("bedrock-runtime.amazonaws.com", False),
        ("bedrock.us-east-1.amazonaws.com", False),
    ],
)
def test_regions_of_bedrock_are_known_by_their_form(host: str, known: object) -> None:
    assert (endpoint(host, "/model/m/converse").provider == "aws") is known
