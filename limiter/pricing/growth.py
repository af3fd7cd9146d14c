"""How providers enlarge the input of a call on their side, and what in the request bounds that.

Rounds are calls of the model beyond the first: each may take in a context window. The allowances are for estimates that
are no bounds: about what was seen in recorded calls, and what the providers' guides say of usual results.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from limiter.pricing.bounds import Bound, Growth
from limiter.pricing.conversations import compacts
from limiter.pricing.tool_calls import container_size
from limiter.pricing.unnamed import FIELDS, unnamed

#: Anthropic samples at most so often within one request that uses server tools ("Handling stop reasons", pause_turn).
ITERATIONS_MAX: Final = 10
#: A bound that nobody means: so many rounds are no bound.
_ROUNDS_MAX: Final = 1_000
#: More tools than any provider takes.
_TOOLS_MAX: Final = 1_000

#: What bounds the tools of a response.
_SET_LIMIT: Final = "set max_tool_calls"

#: Input tokens that an estimate allows for one such part of a request, for all its rounds.
SEARCH_TOKENS: Final = 30_000
SEARCHES: Final = 3
FETCH_TOKENS: Final = 20_000
FILE_SEARCH_TOKENS: Final = 20_000  # 20 passages of 800 tokens (OpenAI's guide "File search")
CODE_TOKENS: Final = 10_000
TOOL_TOKENS: Final = 10_000
CATALOGUE_TOKENS: Final = 3_000  # tools that are looked up when they are needed
STORED_TOKENS: Final = 20_000  # earlier turns, cached content, a document that is elsewhere
PROMPT_TOKENS: Final = 2_000
AGENT_TOKENS: Final = 30_000

_WEB: Final = "web_searches"
_STORE: Final = "storage_searches"
_CODE: Final = "code_executions"

#: Kinds of tools that run at the caller's; any other kind runs at the provider and feeds its results to the model.
_CALLERS: Final = (
    "function",
    "custom",
    "namespace",
    "bash_",
    "text_editor_",
    "computer",
    "memory_",
    "local_shell",
    "apply_patch",
)

#: Kinds of tools that run at the provider: beginning of the kind, what is allowed for, the fee for each use.
_SERVERS: Final = (
    ("web_search", SEARCH_TOKENS, _WEB),
    ("web_fetch", FETCH_TOKENS, ""),
    ("x_search", SEARCH_TOKENS, "social_searches"),
    ("browser_search", SEARCH_TOKENS, _WEB),
    ("file_search", FILE_SEARCH_TOKENS, _STORE),
    ("code_execution", CODE_TOKENS, ""),  # Anthropic's: no fee by the execution
    ("code_", CODE_TOKENS, _CODE),
    ("shell", CODE_TOKENS, _CODE),
    ("image_generation", PROMPT_TOKENS, ""),
    ("tool_search", CATALOGUE_TOKENS, ""),
    ("mcp", TOOL_TOKENS, ""),
)

#: Gemini's tools, each an object by its name; nothing in a request bounds how often they are used.
_GEMINI: Final = {
    "googlesearch": (PROMPT_TOKENS, _WEB),
    "googlesearchretrieval": (PROMPT_TOKENS, _WEB),
    "enterprisewebsearch": (PROMPT_TOKENS, _WEB),
    "googlemaps": (PROMPT_TOKENS, _WEB),
    "urlcontext": (FETCH_TOKENS, ""),
    "codeexecution": (PROMPT_TOKENS, ""),
    "filesearch": (FILE_SEARCH_TOKENS, ""),
    "retrieval": (FILE_SEARCH_TOKENS, ""),
}
_CALLERS_OBJECTS: Final = frozenset({"functiondeclarations", "computeruse", "toolspec", "cachepoint"})
#: Tools of the caller without a kind: Anthropic's and older ones of OpenAI's interface; Cohere's.
_DESCRIPTIONS: Final = frozenset({"name", "function", "input_schema", "parameter_definitions"})

#: Fields that name what the provider keeps, and adds to the input once.
_STORED: Final = (
    ("previous_response_id", STORED_TOKENS, "send the earlier turns themselves in input"),
    ("conversation", STORED_TOKENS, "send the earlier turns themselves in input"),
    ("conversation_id", STORED_TOKENS, "send the earlier turns themselves"),
    ("cachedContent", STORED_TOKENS, "send the content itself"),
    ("cached_content", STORED_TOKENS, "send the content itself"),
    ("promptVariables", PROMPT_TOKENS, "send the text of the prompt itself"),
)

#: A request without any of these fields is not enlarged by them.
_FIELDS: Final = frozenset(
    {"context_management", "mcp_servers", "reasoning", "search_parameters", "toolConfig", "tools", "web_search_options"}
    | {name for name, _, _ in _STORED}
    | FIELDS
)


def growth_of(request: Mapping[str, Any], model: str, parts: Sequence[Growth] = ()) -> Growth | None:
    """Return how the provider may enlarge `request` to `model`; `parts` are those of its messages."""
    agents = _by_model(model)
    if not agents and not parts and _FIELDS.isdisjoint(request):
        return None
    grown = [*parts, *_by_fields(request), *agents, *_by_tools(request, model)]
    return combined(grown) if grown else None


def combined(grown: list[Growth]) -> Growth:
    """All of them as one: rounds add up, and none that is unbounded leaves the others a bound."""
    if len(grown) == 1:
        return grown[0]
    unbounded = [one for one in grown if one.rounds is None]
    named = unbounded or grown
    rounds = None if unbounded else sum(one.rounds or 0 for one in grown)
    tokens = sum(one.allowance.input_tokens for one in grown)
    return Growth(
        reason=", ".join(dict.fromkeys(one.reason for one in named[:8])),
        remedy="; ".join(dict.fromkeys(one.remedy for one in named[:8])),
        rounds=rounds,
        fees=_sum(one.fees for one in grown),
        allowance=Bound(tokens, _sum(one.allowance.units for one in grown)),
    )


def stored(where: str, kind: str, tokens: int) -> Growth:
    """A part whose content is elsewhere, or packed: it is read once, and fills at most the context window."""
    return Growth(f"{kind} ({where})", "send what it says as text", 0, allowance=Bound(tokens))


def _sum(units: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for one in units:
        for unit, count in one.items():
            total[unit] = total.get(unit, 0) + count
    return total


def _grown(  # noqa: PLR0917 - a row of a table
    reason: str, remedy: str, rounds: int | None, tokens: int, fee: str = "", fees: int = 0
) -> Growth:
    """`fees`: how often `fee` may be due at most, where that is not once a round."""
    times = fees or (rounds or 0)
    allowed = min(SEARCHES, times) if rounds is not None else SEARCHES
    return Growth(
        reason,
        remedy,
        rounds,
        {fee: times} if fee and rounds is not None else {},
        Bound(tokens, {fee: allowed} if fee and allowed else {}),
    )


def _by_fields(request: Mapping[str, Any]) -> Iterator[Growth]:
    for name, tokens, remedy in _STORED:
        if request.get(name):
            yield _grown(name, f"leave {name} out and {remedy}", 0, tokens)
    if not FIELDS.isdisjoint(request):
        yield from unnamed(request, limit=_limit(request))
    if request.get("web_search_options") is not None:
        yield _grown("web_search_options", "leave web_search_options out", 1, SEARCH_TOKENS, _WEB)
    if isinstance(search := request.get("search_parameters"), dict) and search.get("mode") != "off":
        most = search.get("max_search_results")
        sources = most if type(most) is int and 0 < most <= _ROUNDS_MAX else 20
        yield _grown("search_parameters", "set search_parameters.mode to off", 1, SEARCH_TOKENS, _WEB, sources)
    if compacts(request.get("context_management")):
        yield _grown("context_management", "leave compaction out: it reads the input once more", 1, TOOL_TOKENS)
    if isinstance(reasoning := request.get("reasoning"), dict) and reasoning.get("mode"):
        yield _grown("reasoning.mode", "leave reasoning.mode out: it reads the input several times", None, TOOL_TOKENS)


#: Models that search, or call themselves, before they answer: part of the name, rounds, what is allowed for.
_AGENTS: Final = (
    (("compound",), None, AGENT_TOKENS),
    (("deep-research",), None, 10 * AGENT_TOKENS),
    (("-search", "sonar", ":online"), 1, SEARCH_TOKENS),
)
_NO_AGENTS: Final = ("embed", "rerank", "search-document", "search-query")


@lru_cache(4096)
def _by_model(model: str) -> tuple[Growth, ...]:
    name = model.lower()
    if any(mark in name for mark in _NO_AGENTS):
        return ()
    for marks, rounds, tokens in _AGENTS:
        if any(mark in name for mark in marks):
            remedy = "name a model that does not search by itself"
            return (_grown(f"model ({model})", remedy, rounds, tokens, _WEB),)
    return ()


def _by_tools(request: Mapping[str, Any], model: str) -> Iterator[Growth]:
    config = request.get("toolConfig")
    tools = request.get("tools") or (config.get("tools") if isinstance(config, dict) else None)
    listed = tools if isinstance(tools, list) else [] if tools is None else [tools]
    if len(listed) > _TOOLS_MAX:
        yield _grown("tools", f"give at most {_TOOLS_MAX} tools", None, AGENT_TOKENS)
        return
    servers = request.get("mcp_servers")
    found = [grown for i, tool in enumerate(listed) if (grown := _by_tool(tool, i, request, model)) is not None]
    if servers and not any("mcp" in grown.reason for grown in found):
        found.append(_grown("mcp_servers", "leave mcp_servers out", None, TOOL_TOKENS))
    limit = _limit(request)
    if limit is None or not found or any(one.rounds is None and one.remedy != _SET_LIMIT for one in found):
        yield from found
        return
    # One count for the tools of all kinds: each of them may use it up.
    grown = combined([_grown(one.reason, one.remedy, 0, one.allowance.input_tokens) for one in found])
    by_use = {unit: limit for one in found for unit in one.allowance.units.keys() - one.fees.keys()}
    fees = _sum([by_use, *(one.fees for one in found if limit)])
    allowed = {
        unit: min(count, fees.get(unit, 0)) for unit, count in _sum(one.allowance.units for one in found).items()
    }
    yield Growth(grown.reason, grown.remedy, limit, fees, Bound(grown.allowance.input_tokens, allowed))


def _limit(request: Mapping[str, Any]) -> int | None:
    """How often tools of the provider may be used by one request for a response (OpenAI; xAI: turns)."""
    if request.keys().isdisjoint(("input", "prompt")):
        return None  # other interfaces do not know these fields
    limits = [request[name] for name in ("max_tool_calls", "max_turns") if type(request.get(name)) is int]
    return next((limit for limit in limits if 0 <= limit <= _ROUNDS_MAX), None)


def _by_tool(tool: object, place: int, request: Mapping[str, Any], model: str) -> Growth | None:
    if not isinstance(tool, dict):
        return _grown(f"tools.{place}", "describe the tool by an object", None, TOOL_TOKENS)
    kind = tool.get("type")
    if isinstance(kind, str):
        if (size := _container(tool, kind, model)) is not None:
            fees, reason = {_CODE: size}, f"tools.{place} ({kind})"
            return Growth(reason, _SET_LIMIT, None, fees, Bound(CODE_TOKENS, fees)) if size else None
        return _by_kind(tool, kind, place, by_dates="input" not in request)
    names = [name for name in tool if name.replace("_", "").lower() not in _CALLERS_OBJECTS]
    if not names or not _DESCRIPTIONS.isdisjoint(tool):
        return None
    tokens, fee = _GEMINI.get(names[0].replace("_", "").lower(), (TOOL_TOKENS, ""))
    return _grown(f"tools.{place} ({names[0]})", f"leave {names[0]} out: nothing bounds its use", None, tokens, fee)


def _container(tool: Mapping[str, Any], kind: str, model: str) -> int | None:
    """How much is due for a tool of OpenAI's in a container, once for all its uses; 0: it runs at the caller's.

    None: it is another tool, or one that is billed by its uses, as xAI's are.
    """
    if not kind.startswith(("code_interpreter", "shell")) or "grok" in model.lower():
        return None
    environment = tool.get("environment")
    if isinstance(environment, dict) and environment.get("type") == "local":
        return 0
    return container_size(tool) if "container" in tool or environment is not None else None


def _by_kind(tool: Mapping[str, Any], kind: str, place: int, *, by_dates: bool) -> Growth | None:
    if kind.startswith(_CALLERS) or (kind == "tool_search" and tool.get("execution") == "client"):
        return None
    if by_dates and _dated(kind):
        return _by_anthropic_tool(tool, kind, place)
    tokens, fee = _server(kind)
    remedy = f"leave {kind} out: nothing bounds its use" if by_dates else _SET_LIMIT
    if kind.startswith("image_generation"):
        remedy = f"leave {kind} out and ask for images by themselves: they have a price of their own"
    return _grown(f"tools.{place} ({kind})", remedy, None, tokens, fee)


def _server(kind: str) -> tuple[int, str]:
    return next(((tokens, fee) for name, tokens, fee in _SERVERS if kind.startswith(name)), (TOOL_TOKENS, ""))


def _dated(kind: str) -> bool:
    """Whether a kind ends with a date, as Anthropic's do: web_search_20250305, or a name that only Anthropic has."""
    return (kind[-9:-8] == "_" and kind[-8:].isdigit()) or kind.startswith(
        ("tool_search_tool_", "mcp_toolset", "advisor")
    )


def _by_anthropic_tool(tool: Mapping[str, Any], kind: str, place: int) -> Growth:
    """Anthropic's server tools: `max_uses` bounds the searches, and the iterations of a request all of them."""
    tokens, fee = _server(kind)
    reason, most = f"tools.{place} ({kind})", tool.get("max_uses")
    if kind.startswith("advisor"):
        return _grown(reason, f"leave {kind} out: it calls another model at its price", None, tokens, fee)
    if type(most) is int and 0 < most <= _ROUNDS_MAX:
        # The model may try once more than it may, and is told so. Newer tools filter what they find by code of theirs.
        rounds = ITERATIONS_MAX if kind[-8:] >= "20260101" else min(most + 1, ITERATIONS_MAX)
        return _grown(reason, "lower max_uses", rounds, tokens, fee, most)
    if kind.startswith(("code_execution", "tool_search_tool", "mcp")):
        return _grown(reason, f"leave {kind} out", ITERATIONS_MAX, tokens, fee)
    return _grown(reason, f"set max_uses in tools.{place}", None, tokens, fee)
