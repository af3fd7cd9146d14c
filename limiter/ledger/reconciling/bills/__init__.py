"""What do providers say was spent? Reads their exports into one form."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from limiter.domain.errors import InvalidArgument
from limiter.ledger.reconciling.bills import anthropic, aws_cur, gateways, openai, vertex
from limiter.ledger.reconciling.bills.files import Source
from limiter.ledger.reconciling.bills.lines import BillLine, Told
from limiter.ledger.reconciling.bills.mapped import Mapped

Read = Callable[[Source, Told], Iterator[BillLine]]


class Form(NamedTuple):
    """How a provider's exports are read, and the names that the books have for it."""

    read: Read
    providers: tuple[str, ...]


_GOOGLE: Final = Form(vertex.read, ("google", "vertex", "google-vertex", "gemini"))
_AWS: Final = Form(aws_cur.read, ("aws", "bedrock", "aws-bedrock", "amazon-bedrock"))
#: By the name that `--provider` takes.
FORMS: Final[dict[str, Form]] = {
    "openai": Form(openai.read, ("openai",)),
    "anthropic": Form(anthropic.read, ("anthropic",)),
    "vertex": _GOOGLE,
    "google": _GOOGLE,
    "aws": _AWS,
    "bedrock": _AWS,
    "openrouter": Form(gateways.read_openrouter, ("openrouter",)),
    "litellm": Form(gateways.read_litellm, ("litellm",)),
}


class Bill:
    """The exports of one provider, read as one bill. `told` is complete once `lines` came to its end."""

    def __init__(self, provider: str, files: Sequence[Path], mapping: Path | None = None) -> None:
        form = FORMS.get(provider)
        if form is None and mapping is None:
            raise InvalidArgument(
                "--provider",
                provider,
                f"there is {', '.join(FORMS)}; for another one say with --mapping what its columns are",
            )
        self.provider = provider
        self.providers = form.providers if form is not None else (provider,)
        self.told = Told()
        self._files = [Source(path) for path in files]
        self._read: Read = Mapped(mapping).read if mapping is not None or form is None else form.read  # type: ignore[arg-type] # one is given

    def lines(self) -> Iterator[BillLine]:
        """Read every file to its end. Raises InvalidArgument for what is damaged, cut off or no such export."""
        for source in self._files:
            try:
                for line in self._read(source, self.told):
                    self.told.lines += 1
                    yield line
            except (AttributeError, TypeError) as error:  # a list where the provider writes an object, say
                remedy = "it is JSON of another shape than the provider's: name an export of the provider"
                raise InvalidArgument("--file", str(source.path), remedy) from error
        self.told.check_pages()
        if not self.told.lines:
            raise InvalidArgument("--file", ", ".join(str(file.path) for file in self._files), "there is no line in it")
