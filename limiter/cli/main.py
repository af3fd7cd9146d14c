"""`limiter`: the table of the commands."""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer

import limiter
from limiter.cli.failures import MEANINGS
from limiter.cli.lazy import MARKUP, Entry, LazyCommand, RootGroup, Section, section

#: By the heading that they stand under in `limiter --help`.
COMMANDS: Final[dict[str, dict[str, Entry | Section]]] = {
    "Run": {
        "serve": Entry("limiter.cli.serve:serve", "Start a sidecar; without --store with a Valkey of its own."),
        "replay": Entry("limiter.cli.replay:replay", "Replay recorded calls against a policy."),
        "estimate": Entry(
            "limiter.cli.estimate:estimate",
            "Compare what recorded calls cost with what would have been held for them; no sidecar is needed.",
        ),
    },
    "Decide who may spend what": {
        "check": Entry("limiter.cli.policies:check", "Check a policy file; no sidecar is needed."),
        "apply": Entry("limiter.cli.policies:apply", "Put a policy file in force, and print what changes."),
        "policy": Section(
            "Read the policy in force.",
            {"show": Entry("limiter.cli.policies:show", "Print the policy in force as YAML.")},
        ),
        "prices": Section(
            "Show, import and compare prices; no sidecar is needed.",
            {
                "show": Entry("limiter.cli.prices:show", "Show what a model costs, and why."),
                "import": Entry("limiter.cli.prices:import_", "Write a price file from LiteLLM's list of models."),
                "diff": Entry("limiter.cli.prices:diff", "Show what differs between two lists of prices."),
            },
        ),
        "schema": Entry("limiter.cli.policies:schema", "Print the JSON Schema of policy files, for editors."),
        "keys": Section(
            "Mint, import, list, rotate and disable keys.",
            {
                "create": Entry("limiter.cli.keys:create", "Mint a key; its secret is shown this once."),
                "import": Entry("limiter.cli.keys:import_", "Register a secret that exists elsewhere."),
                "list": Entry("limiter.cli.keys:list_", "List the keys that have a secret."),
                "rotate": Entry("limiter.cli.keys:rotate", "Mint a further secret; the older ones end after a while."),
                "update": Entry("limiter.cli.keys:update", "Set a key's expiry or its limits."),
                "disable": Entry("limiter.cli.keys:disable", "Refuse a key from its next call on."),
                "enable": Entry("limiter.cli.keys:enable", "Let a disabled key call again."),
            },
        ),
    },
    "See": {
        "top": Entry("limiter.cli.top:top", "Watch the scopes: ceiling, settled, held, free, in place."),
        "inspect": Entry("limiter.cli.inspection:inspect", "Show a scope with its counters, or a reservation."),
        "reservations": Section(
            "See and end open holds.",
            {
                "list": Entry("limiter.cli.reservations:list_", "List open holds, those that expire first first."),
                "release": Entry("limiter.cli.reservations:release", "End an open hold with nothing spent, by force."),
            },
        ),
        "ledger": Section(
            "Read, check and correct the rows of what was spent, and move them into the books.",
            {
                "tail": Entry("limiter.cli.ledger:tail", "Print the newest ledger rows, and new ones as they come."),
                "export": Entry("limiter.cli.ledger:export", "Write every ledger row as a line of JSON."),
                "verify": Entry("limiter.cli.ledger_verify:verify", "Check the books: every row, every sum."),
                "heads": Entry(
                    "limiter.cli.ledger_verify:heads", "Print a line for each day that its rows can be held to."
                ),
                "adjust": Entry(
                    "limiter.cli.ledger_adjust:adjust", "Correct what a call cost, by a row that says who and why."
                ),
                "drain": Entry(
                    "limiter.cli.ledger_drain:drain", "Move ledger rows into the books, as a process of its own."
                ),
                "migrate": Entry("limiter.cli.ledger_drain:migrate", "Bring the books to this version."),
            },
        ),
        "alerts": Section(
            "See what people were told, and try how they are told.",
            {
                "list": Entry("limiter.cli.alerts:list_", "List alerts, the newest first, and who got them."),
                "test": Entry("limiter.cli.alerts:send_test", "Send a test alert now, and print what came back."),
                "redeliver": Entry("limiter.cli.alerts:redeliver", "Let an alert be sent again."),
            },
        ),
    },
    "Account": {
        "report": Entry(
            "limiter.cli.report:report", "Sum up calls, tokens and cost by customer, model, day or anything."
        ),
        "invoice": Entry("limiter.cli.invoice:invoice", "Issue a customer's invoice of a month, once and for ever."),
        "invoices": Section(
            "List, show and verify issued invoices.",
            {
                "list": Entry("limiter.cli.invoices:list_", "List the issued invoices."),
                "show": Entry("limiter.cli.invoices:show", "Show an issued invoice."),
                "verify": Entry("limiter.cli.invoices:verify", "Make issued invoices anew from the rows, and compare."),
            },
        ),
        "margin": Entry("limiter.cli.margin:margin", "Compare what customers cost with what they paid."),
        "reconcile": Entry("limiter.cli.reconcile:reconcile", "Compare the books with a provider's bill."),
        "what-if": Entry("limiter.cli.what_if:what_if", "Replay the books' calls against another policy."),
    },
    "Try calls from a shell": {
        "reserve": Entry("limiter.cli.calls:reserve", "Ask for a hold, as before a model is called."),
        "settle": Entry("limiter.cli.endings:settle", "Replace a hold by what was used."),
        "release": Entry("limiter.cli.endings:release", "End a hold with nothing spent."),
        "extend": Entry("limiter.cli.endings:extend", "Keep a hold open for a longer call."),
        "charge": Entry("limiter.cli.calls:charge", "Book spend that had no hold."),
        "headroom": Entry("limiter.cli.calls:headroom", "Show what is left at every limit on a key's path."),
    },
}

_EXIT_CODES = "Exit codes:\n\n" + "\n".join(f"- {code.value}: {meaning}" for code, meaning in MEANINGS.items())


class CommandLine(RootGroup):
    """The outermost group, with the commands of the table."""

    def __init__(self, **attributes: Any) -> None:  # noqa: ANN401 - passed on as they come
        super().__init__(**attributes)
        for panel, entries in COMMANDS.items():
            for name, entry in entries.items():
                made = LazyCommand(name, entry, panel) if isinstance(entry, Entry) else section(name, entry, panel)
                self.add_command(made, name)


app = typer.Typer(
    cls=CommandLine,
    no_args_is_help=True,
    rich_markup_mode=MARKUP,
    pretty_exceptions_enable=False,
    epilog="Example:\n\n`limiter serve --data-dir data`\n\n" + _EXIT_CODES,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"limiter {limiter.__version__}")
        raise typer.Exit


@app.callback()
def root(
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Put a hard ceiling on what language models may cost: permission before the call, settlement after it."""
    del version


def main() -> None:
    """Run the command line of this process."""
    app(prog_name="limiter")
