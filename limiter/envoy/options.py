"""What an operator may say of the Envoy side: a YAML file, `limiter serve --envoy FILE`.

::

    cost_header: x-limiter-request-cost
    tags_header: x-limiter-tags
    principal: {header: x-limiter-key}            # or metadata: {namespace: envoy.filters.http.jwt_authn, path: [claims, key]}
    upstream_credentials:
      - {host: api.openai.com, env: OPENAI_API_KEY}
      - {host: api.anthropic.com, header: x-api-key, file: /run/secrets/anthropic}
      - {host: "bedrock-runtime.*.amazonaws.com", signed: true}
    partial_body: {hold_usd: 5.00}                # or refuse
    other_requests: models                        # or rate_limits, or refuse
    free_paths: [/v1/moderations]
    request_changes: {include_usage: true, max_output_tokens: true}
"""  # noqa: E501 - an example stays on its line

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, Field, ValidationError

from limiter.domain.errors import InvalidArgument, LimiterError
from limiter.domain.mistakes import Mistake, Place, mistaken, mistakes_in
from limiter.policy.fields import CallCost, Switch
from limiter.policy.mistakes import PolicyInvalid
from limiter.policy.part import Part
from limiter.policy.yaml_text import read_yaml

_HEADER: Final = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,128}", re.ASCII)

#: Requests that cost nothing at the providers, though they are POSTs.
FREE_PATHS: Final = ("/v1/messages/count_tokens", "/v1/moderations")


class OptionsInvalid(InvalidArgument):
    """Options that were not accepted. `str(error)` has one line for each of its `mistakes`."""

    def __init__(self, file: Path, mistakes: list[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        self.field = "envoy"
        self.remedy = "correct the mistakes listed"
        LimiterError.__init__(self, "\n".join(f"{file}: {mistake}" for mistake in mistakes))


def _header(value: str) -> str:
    name = value.lower()
    if _HEADER.fullmatch(name) is None:
        raise mistaken(f"{value!r} is not valid; write the name of an HTTP header")
    return name


def _host(value: str) -> str:
    if not value or not value.isascii() or not value.isprintable() or any(sign in value for sign in " /:@[]"):
        raise mistaken(f"{value!r} is not valid; write a host such as api.openai.com, or a pattern with * and ?")
    return value.lower()


def _path(value: str) -> str:
    if not value.startswith("/") or "?" in value or not value.isprintable():
        raise mistaken(f"{value!r} is not valid; write a path such as /v1/moderations, without a query")
    return value


Header = Annotated[str, AfterValidator(_header)]
Host = Annotated[str, AfterValidator(_host)]
FreePath = Annotated[str, AfterValidator(_path)]


class PrincipalMetadata(Part):
    """Where an earlier filter leaves organization/team/key in dynamic metadata."""

    namespace: str
    """The filter's name, such as envoy.filters.http.jwt_authn."""
    path: tuple[str, ...] = Field(min_length=1, max_length=16)
    """The fields that lead to it."""


class PrincipalOptions(Part):
    """Who asks, where an earlier filter knows it. Believed only on listeners that are marked trusted."""

    metadata: PrincipalMetadata | None = None
    header: Header | None = None
    """A header with organization/team/key; a filter before this one must set it or remove the client's."""


class UpstreamCredential(Part):
    """The provider's key, which takes the place of the caller's."""

    host: Host
    """The provider's host, or a pattern (* and ?); the first that fits is taken."""
    header: Header = "authorization"
    env: str | None = None
    """The environment variable that has the key."""
    file: Path | None = None
    """The file that has the key; white space around it is not part of it."""
    prefix: str | None = None
    """What stands before the key; `Bearer ` in authorization, else nothing."""
    signed: Switch = False
    """No key from here: a filter after ext_authz signs the request, as AWS wants it; the caller's key is taken out."""

    @classmethod
    def together(cls, data: dict[str, Any]) -> Iterator[tuple[Place, str]]:
        """Yield a mistake unless there is one source."""
        if ("env" in data) + ("file" in data) + bool(data.get("signed")) != 1:
            yield (), "name env or file, one of them, or say signed: true"


class PartialBody(Part):
    """What to do with a call whose body did not arrive whole."""

    hold_usd: CallCost
    """Hold this much, in USD."""


class RequestChanges(Part):
    """What ext_proc may add to requests."""

    include_usage: Switch = True
    """stream_options.include_usage, to streams that would not tell their usage."""
    max_output_tokens: Switch = True
    """The most output that the hold pays for, to calls that name none."""


class EnvoyOptions(Part):
    """How requests that come through Envoy are handled."""

    cost_header: Header = "x-limiter-request-cost"
    """The header that tells the client what a call cost, in USD."""
    tags_header: Header = "x-limiter-tags"
    """The header with the caller's tags, name:value with commas between; the provider does not get it."""
    principal: PrincipalOptions = PrincipalOptions()
    upstream_credentials: tuple[UpstreamCredential, ...] = Field(default=(), max_length=256)
    """The providers' own keys, which take the place of the caller's."""
    forward_client_keys: Switch = False
    """Where there is none: let the caller's own go on, as it is the provider's too; else the call is not made."""
    partial_body: PartialBody | Literal["refuse"] = "refuse"
    other_requests: Literal["models", "rate_limits", "refuse"] = "models"
    """What GET, HEAD, OPTIONS and DELETE may reach with the provider's key: the list of models, anything, or nothing.

    These, and the free paths, count by rate limits only; they need a key.
    """
    free_paths: tuple[FreePath, ...] = Field(default=FREE_PATHS, max_length=256)
    """Paths besides which a POST that Limiter cannot price is refused."""
    request_changes: RequestChanges = RequestChanges()

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read a file; raises OptionsInvalid with every mistake in it."""
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise InvalidArgument("envoy", str(file), f"name a YAML file that can be read ({reason})") from None
        try:
            tree, mistakes = read_yaml(text)
        except PolicyInvalid as error:
            raise OptionsInvalid(file, list(error.mistakes)) from None
        try:
            options = cls.model_validate(tree)
        except ValidationError as error:
            raise OptionsInvalid(file, [*mistakes, *mistakes_in(error)]) from None
        if mistakes:
            raise OptionsInvalid(file, mistakes)
        return options
