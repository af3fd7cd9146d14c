"""The options of `reconcile`."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from limiter.cli.arguments import instant
from limiter.cli.reconcile_report import ReconcileFormat
from limiter.ledger.reconciling.bills import FORMS

_ADJUSTING = "Adjusting the books"

Provider: TypeAlias = Annotated[
    str, typer.Option(metavar="NAME", help=f"{', '.join(FORMS)}; any with --mapping.", show_default=False)
]
Files: TypeAlias = Annotated[
    list[Path], typer.Option(metavar="FILE", help="An export, gzipped or not; repeatable.", show_default=False)
]
MappingFile: TypeAlias = Annotated[
    Path | None, typer.Option(metavar="FILE", help="YAML that says which column is what.")
]
Ours: TypeAlias = Annotated[
    list[str], typer.Option(metavar="NAME", help="What the books call the provider; repeatable.")
]
From: TypeAlias = Annotated[
    datetime | None,
    typer.Option(
        "--from", parser=instant, metavar="TIME", help="Lines from here.", show_default="the bill's beginning"
    ),
]
To: TypeAlias = Annotated[
    datetime | None,
    typer.Option(parser=instant, metavar="TIME", help="Lines before here.", show_default="the bill's end"),
]
Tolerance: TypeAlias = Annotated[
    str, typer.Option(metavar="USD", help="Drift that is accepted, beside rounding and neighbouring buckets.")
]
RoundsUp: TypeAlias = Annotated[
    bool, typer.Option("--rounds-up", help="The provider rounds its lines up or down, not to the nearest unit.")
]
CountCredits: TypeAlias = Annotated[
    bool, typer.Option("--count-credits", help="Take credits off the bill; else they are told of.")
]
AllBuckets: TypeAlias = Annotated[bool, typer.Option("--all", help="Print every bucket, not only those that are off.")]
Output: TypeAlias = Annotated[
    ReconcileFormat, typer.Option("--format", metavar="table|json|csv", help="For people, or for programs.")
]
Adjust: TypeAlias = Annotated[
    bool, typer.Option("--adjust", help="Offer rows that bring the books to the bill.", rich_help_panel=_ADJUSTING)
]
By: TypeAlias = Annotated[
    str,
    typer.Option(
        metavar="NAME", help="Who adjusts.", show_default="the user of this machine", rich_help_panel=_ADJUSTING
    ),
]
Reason: TypeAlias = Annotated[
    str, typer.Option(metavar="TEXT", help="Why.", show_default="the bill of NAME", rich_help_panel=_ADJUSTING)
]
ChargeTo: TypeAlias = Annotated[
    str, typer.Option(metavar="KEY", help="ORG/TEAM/KEY of what only the bill has.", rich_help_panel=_ADJUSTING)
]
ChargeTags: TypeAlias = Annotated[
    list[str],
    typer.Option(
        "--charge-tag",
        metavar="NAME:VALUE",
        help="Of these charges, such as customer:acme; repeatable. Without, they are on no invoice.",
        rich_help_panel=_ADJUSTING,
    ),
]
ZeroAbsent: TypeAlias = Annotated[
    bool, typer.Option("--zero-absent", help="Calls that the bill does not have cost 0.", rich_help_panel=_ADJUSTING)
]
Yes: TypeAlias = Annotated[bool, typer.Option("--yes", help="Do not ask.", rich_help_panel=_ADJUSTING)]
ChargeAddress: TypeAlias = Annotated[
    str | None,
    typer.Option(
        envvar="LIMITER_ADDRESS",
        metavar="ADDRESS",
        help="The listener that charges are booked at; it must trust key names.",
        show_default="the data directory's socket",
        rich_help_panel=_ADJUSTING,
    ),
]
ChargeToken: TypeAlias = Annotated[
    str | None,
    typer.Option(envvar="LIMITER_TOKEN", metavar="TOKEN", help="Its token.", rich_help_panel=_ADJUSTING),
]
