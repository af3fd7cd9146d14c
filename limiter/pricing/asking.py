"""What each interface of text lets a request ask for: its maximum output, how many answers, the terms of its price."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from limiter.domain.calls import COUNT_MAX
from limiter.domain.errors import InvalidArgument
from limiter.pricing.bounds import NO_UNITS
from limiter.pricing.request_fields import BODY, count, inner, largest_count, model_of, text

Body = Mapping[str, Any]

#: The most answers to one request (OpenAI's own bound).
CHOICES_MAX: Final = 128

#: Providers whose chat completions know max_completion_tokens; the others know only max_tokens.
_NEWER_CHAT: Final = frozenset(
    {
        "anthropic",
        "aws",
        "azure",
        "cerebras",
        "google",
        "groq",
        "moonshotai",
        "openai",
        "openrouter",
        "snowflake",
        "x-ai",
    }
)

#: What OpenAI's completions write where they are told no maximum.
_COMPLETION_TOKENS: Final = 16

#: No terms that change a price.
NO_TERMS: Final[Mapping[str, str]] = MappingProxyType({})


class Asked(NamedTuple):
    """What a request asks for. `max_output_tokens` is per choice, None: not named; `output_field`: where it would be.

    `units` and `safe_units` are what is asked for beside tokens, at most and as estimated; `context` are terms of the
    price. `input_tokens` is set where the bytes of the body say nothing of them: at most, and as estimated. `thinking`
    is how much the model may think where no maximum output is named: it comes on top of any that is assumed.
    """

    max_output_tokens: int | None
    choices: int = 1
    output_field: str = ""
    units: Mapping[str, int] = NO_UNITS
    safe_units: Mapping[str, int] | None = None
    context: Mapping[str, str] = NO_TERMS
    input_tokens: tuple[int, int] | None = None
    thinking: int = 0


def openai_chat(body: Body, provider: str, model: str) -> Asked:
    """Read a chat completion."""
    choices = count(body, "n", CHOICES_MAX) or 1
    # Thinking comes on top of the answer's bound where it has one of its own.
    budget = count(body, "thinking_budget") or 0
    if provider in _NEWER_CHAT and not (provider == "google" and body.get("model") is None and model):
        # Hosts differ in which of the two they obey, so the larger one counts.
        largest = largest_count(body, "max_completion_tokens", "max_tokens")
        thinking = max(budget, _budget(body, "reasoning", "max_tokens"), _budget(body, "thinking", "budget_tokens"))
        return Asked(_sum(largest, budget), choices, "max_completion_tokens", thinking=thinking)
    # A host that may not know the newer name does not obey it.
    obeyed = count(body, "max_tokens")
    largest = largest_count(body, "max_completion_tokens", "max_tokens", "max_new_tokens")
    thinking = max(budget, _budget(body, "thinking", "budget_tokens"))
    return Asked(None if obeyed is None else _sum(largest, budget), choices, "max_tokens", thinking=thinking)


def _sum(largest: int | None, more: int) -> int | None:
    return None if largest is None else min(largest + more, COUNT_MAX)


def _budget(body: Body, outer: str, name: str) -> int:
    """How much the model may think, in an object of that name; 0: it is not said, or left to the model."""
    told = body.get(outer)
    budget = told.get(name) if isinstance(told, dict) else None
    return budget if type(budget) is int and 0 < budget <= COUNT_MAX else 0


def openai_completions(body: Body, provider: str, model: str) -> Asked:
    """Read a completion: each prompt of a list is answered, `best_of` times, and all of that is billed."""
    del model
    answers = max(count(body, "n", CHOICES_MAX) or 1, count(body, "best_of", CHOICES_MAX) or 1)
    largest = count(body, "max_tokens")
    if largest is None and provider in ("openai", "azure"):
        largest = _COMPLETION_TOKENS
    prompt = body.get("prompt")
    # A list of numbers is one prompt, in tokens.
    prompts = sum(not isinstance(each, int) for each in prompt) if isinstance(prompt, list) else 1
    return Asked(largest, answers * max(prompts, 1), "max_tokens")


def openai_responses(body: Body, provider: str, model: str) -> Asked:
    """Read a response."""
    del provider, model
    return Asked(count(body, "max_output_tokens"), 1, "max_output_tokens")


def anthropic_messages(body: Body, provider: str, model: str) -> Asked:
    """Read a message; what is thought counts into its maximum."""
    del provider, model
    if "max_tokens_to_sample" in body and "messages" not in body:
        return Asked(count(body, "max_tokens_to_sample"), 1, "max_tokens_to_sample")
    terms = {"inference_geo": "us"} if body.get("inference_geo") == "us" else {}
    return Asked(count(body, "max_tokens"), 1, "max_tokens", context=terms)


def no_output(body: Body, provider: str, model: str) -> Asked:
    """Vectors, scores and labels are no output that anybody counts."""
    del body, provider, model
    return Asked(0)


def gemini(body: Body, provider: str, model: str) -> Asked:
    """Read a request to generate content; what is thought counts into its maximum. Both spellings are the API's own."""
    del provider, model
    name, settings = inner(body, "generationConfig", "generation_config")
    place = f"{BODY}.{name}"
    largest = largest_count(settings, "maxOutputTokens", "max_output_tokens", place=place)
    choices = [
        count(settings, each, CHOICES_MAX, place=place) or 1
        for each in ("candidateCount", "candidate_count")
        if each in settings
    ]
    tier = body.get("serviceTier") or body.get("service_tier")
    terms = {}
    if isinstance(tier, str) and (named := tier.lower().removeprefix("service_tier_")) in ("flex", "priority"):
        terms["service_tier"] = named
    thinking = max(
        _budget(settings, "thinkingConfig", "thinkingBudget"), _budget(settings, "thinking_config", "thinking_budget")
    )
    written = f"{name}.maxOutputTokens"
    return Asked(largest, max(choices, default=1), written, context=terms, thinking=thinking)


def bedrock_converse(body: Body, provider: str, model: str) -> Asked:
    """Read a converse call; a model's own fields may bound it too, under the names that the model knows."""
    del provider, model
    _, settings = inner(body, "inferenceConfig")
    _, own = inner(body, "additionalModelRequestFields")
    found = count(settings, "maxTokens", place=f"{BODY}.inferenceConfig")
    more = largest_count(own, "max_tokens", "maxTokens", "max_gen_len", place=f"{BODY}.additionalModelRequestFields")
    _, tier = inner(body, "serviceTier")
    _, performance = inner(body, "performanceConfig")
    terms = {}
    if tier.get("type") in ("priority", "flex"):
        terms["service_tier"] = str(tier["type"])
    if performance.get("latency") == "optimized":
        terms["latency"] = "optimized"
    # Which of the two a model obeys is its own affair, so the larger counts.
    largest = max(found, more) if found is not None and more is not None else found
    thinking = _budget(own, "thinking", "budget_tokens")
    return Asked(largest, 1, "inferenceConfig.maxTokens", context=terms, thinking=thinking)


#: The fields in which models on Bedrock take a maximum output, by a part of their names.
_INVOKED: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("amazon.titan", ("textGenerationConfig.maxTokenCount",)),
    ("amazon.nova", ("inferenceConfig.maxTokens", "inferenceConfig.max_new_tokens")),
    ("meta.llama", ("max_gen_len",)),
    ("ai21.j2", ("maxTokens",)),
)
_INVOKED_ELSE: Final = ("max_tokens", "max_completion_tokens", "max_new_tokens")


def bedrock_invoke(body: Body, provider: str, model: str) -> Asked:
    """Read a call in the words of the model's maker; a field that the model does not know is no bound."""
    del provider
    fields = next((fields for part, fields in _INVOKED if part in model), None)
    if fields is None:
        fields = _fields_by_form(body) if is_profile(model) else _INVOKED_ELSE
    largest, written = None, ""
    for each in fields:
        outer, _, name = each.rpartition(".")
        place = f"{BODY}.{outer}" if outer else BODY
        value = count(inner(body, outer)[1] if outer else body, name, place=place)
        if value is not None and (largest is None or value > largest):
            largest, written = value, each
    choices = max(count(body, name, CHOICES_MAX) or 1 for name in ("n", "num_generations"))
    return Asked(largest, choices, written or fields[0])


def is_profile(model: str) -> bool:
    """Whether a model's name on Bedrock is one of the caller's own, which does not tell what it stands for."""
    return model.startswith("arn:")


def _fields_by_form(body: Body) -> tuple[str, ...]:
    """Where the form of the request says a maximum output is taken: each maker refuses the others' fields."""
    if "inputText" in body:
        return _INVOKED[0][1]
    if "messages" in body:
        return _INVOKED[1][1] if "inferenceConfig" in body else _INVOKED_ELSE
    return (*_INVOKED[2][1], *_INVOKED_ELSE) if "max_gen_len" in body else _INVOKED_ELSE


def cohere_chat(body: Body, provider: str, model: str) -> Asked:
    """Read a chat of Cohere. That a thinking budget is part of the maximum is not promised: it comes on top."""
    del provider, model
    largest = count(body, "max_tokens")
    _, thinking = inner(body, "thinking")
    budget = count(thinking, "token_budget", place=f"{BODY}.thinking") or 0
    choices = count(body, "num_generations", CHOICES_MAX) or 1
    return Asked(_sum(largest, budget), choices, "max_tokens", thinking=budget)


#: Cohere bills a rerank by searches: a query with up to this many documents, of at most this many tokens each.
_SEARCHED_DOCUMENTS: Final = 100
_DOCUMENT_TOKENS: Final = 500

#: More documents than any host ranks at once.
_DOCUMENTS_MAX: Final = 10_000
#: The marks around a query and a document, and of their text the least bytes of a token in an estimate.
_PAIR_TOKENS: Final = 8
_SAFE_PAIR_BYTES_PER_TOKEN: Final = 2

#: Tokens are fewer than bytes: about so many bytes of text make one, at the least.
_SAFE_BYTES_PER_TOKEN: Final = 3


def rerank(body: Body, provider: str, model: str) -> Asked:
    """Read a rerank, which Cohere bills by searches and others by the tokens of their documents."""
    listed = body.get("documents")
    documents = listed if isinstance(listed, list) else []
    if len(documents) > _DOCUMENTS_MAX:
        raise InvalidArgument(f"{BODY}.documents", len(documents), f"rank at most {_DOCUMENTS_MAX} documents at once")
    sizes = [len(str(each).encode(errors="replace")) for each in documents]
    query = len(text(body, "query").encode(errors="replace"))
    if provider != "cohere" and "cohere." not in model:
        # The query is read anew with each document.
        total = sum(sizes) + max(len(sizes), 1) * (query + _PAIR_TOKENS)
        return Asked(0, input_tokens=(total, -(-total // _SAFE_PAIR_BYTES_PER_TOKEN)))
    strict = sum(_pieces(size, query, 1) for size in sizes)
    safe = sum(_pieces(size, query, _SAFE_BYTES_PER_TOKEN) for size in sizes)
    return Asked(
        0,
        units={"rerank_searches": max(1, -(-strict // _SEARCHED_DOCUMENTS))},
        safe_units={"rerank_searches": max(1, -(-safe // _SEARCHED_DOCUMENTS))},
    )


def _pieces(size: int, query: int, bytes_per_token: int) -> int:
    """Into how many documents one is cut; the query takes a part of each, at most half of it."""
    room = max(_DOCUMENT_TOKENS - query // bytes_per_token, _DOCUMENT_TOKENS // 2)
    return max(1, -(-size // bytes_per_token // room))


def check_models(body: Body, model: str) -> None:
    """Check the models that a list of texts to embed names, each for itself: they must be the path's, `model`."""
    requests = body.get("requests")
    for index, request in enumerate(requests if isinstance(requests, list) else ()):
        named = request.get("model") if isinstance(request, dict) else None
        if named is not None and named not in (model, f"models/{model}"):
            raise InvalidArgument(f"{BODY}.requests.{index}.model", named, f"name the model of the path, {model}")


def body_model(body: Body, provider: str) -> tuple[str, str]:
    """Read the model that the body names; return the provider too, where the model's name tells that."""
    model = model_of(body, "model", "model_id")
    if provider == "google":
        model = model.removeprefix("models/").removeprefix("google/") or model
    elif provider == "huggingface" and ":" in model:
        plain, _, served = model.rpartition(":")
        if plain and served:
            return plain, f"huggingface_{served}"
    return model, provider
