"""What a request lets the provider add without naming it: searches of its own, settings and content that it keeps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from limiter.pricing.bounds import Bound, Growth

#: Fields by which the provider searches on its own, as often as it likes (Azure's own data, Cohere, Alibaba), or takes
#: over settings that it keeps (OpenRouter).
SEARCHED: Final = ("data_sources", "dataSources", "connectors", "enable_search", "preset")

#: Every field that is looked at here.
FIELDS: Final = frozenset({*SEARCHED, "extra_body", "plugins", "prompt"})

#: Input tokens that an estimate allows for each.
_SEARCH_TOKENS: Final = 30_000
_STORED_TOKENS: Final = 20_000
_PROMPT_TOKENS: Final = 2_000

#: Plugins of OpenRouter that read what they find, or files, for one more answer; of others, nothing is known.
_PLUGINS: Final = frozenset({"web", "file-parser", "response-healing"})
_PLUGINS_MAX: Final = 100

_WEB: Final = "web_searches"


def unnamed(request: Mapping[str, Any], *, limit: int | None) -> Iterator[Growth]:
    """Yield how the fields of `request` let the provider add to it; `limit`: how often it may use tools of its own."""
    for name in SEARCHED:
        if request.get(name):
            remedy = f"leave {name} out: nothing bounds what it adds"
            yield Growth(name, remedy, None, allowance=Bound(_SEARCH_TOKENS))
    if _is_cached_by_google(request.get("extra_body")):
        remedy = "leave cached_content out and send the content itself"
        yield Growth("extra_body.google.cached_content", remedy, 0, allowance=Bound(_STORED_TOKENS))
    if isinstance(request.get("prompt"), dict):
        # It may bring tools along: of these, only their number can be bounded here.
        remedy = "leave the stored prompt out and send its text in instructions, or set max_tool_calls"
        yield Growth("prompt", remedy, limit, {_WEB: limit} if limit else {}, Bound(_PROMPT_TOKENS))
    yield from _by_plugins(request.get("plugins"))


def _is_cached_by_google(extra: object) -> bool:
    """Whether what Google takes beside OpenAI's interface names content that it keeps."""
    own = extra.get("google") if isinstance(extra, dict) else None
    return isinstance(own, dict) and bool(own.get("cached_content") or own.get("cachedContent"))


def _by_plugins(plugins: object) -> Iterator[Growth]:
    listed = plugins if isinstance(plugins, list) else []
    if len(listed) > _PLUGINS_MAX:
        yield Growth("plugins", f"give at most {_PLUGINS_MAX} plugins", None, allowance=Bound(_SEARCH_TOKENS))
        return
    for i, plugin in enumerate(listed):
        named = plugin.get("id") if isinstance(plugin, dict) else plugin
        kind = named[:32] if isinstance(named, str) else "?"
        rounds, fees = (1 if kind in _PLUGINS else None), ({_WEB: 1} if kind == "web" else {})
        yield Growth(f"plugins.{i} ({kind})", "leave the plugin out", rounds, fees, Bound(_SEARCH_TOKENS, fees))
