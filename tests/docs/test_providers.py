"""docs/providers.md lists the hosts and the paths that are read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from limiter.pricing import paths
from limiter.pricing.known_hosts import BY_PATH, HOSTS, PATTERNS, Host
from limiter.pricing.paths import Interface
from tests.docs.pages import page, table_of

PAGE: Final = "docs/providers.md"


def offered(host: Host) -> str:
    """The interfaces of a host with the prefixes that stand before their paths."""
    found: dict[str, list[str]] = {}
    for prefix, interface in host.interfaces:
        found.setdefault(interface.name, []).append(f"`{prefix or '/'}`")
    return "; ".join(f"{name} {', '.join(prefixes)}" for name, prefixes in found.items())


def host_rows() -> Iterator[str]:
    """A row for all hosts that are the same."""
    alike: dict[tuple[str, str], list[str]] = {}
    known = [*HOSTS.items(), *((name, host) for name, _, host in PATTERNS)]
    known += [(name, host) for name, (_, host) in BY_PATH.items()]
    for name, host in known:
        alike.setdefault((host.provider.replace("{}", "SERVES"), offered(host)), []).append(f"`{name}`")
    for (provider, below), names in alike.items():
        yield f"| {', '.join(names)} | `{provider}` | {below} |"


def interface_rows() -> Iterator[str]:
    """A row for each interface."""
    for interface in vars(paths).values():
        if isinstance(interface, Interface):
            yield f"| {interface.name} | {', '.join(f'`{path}`' for path in interface.offered)} |"


def rows(first: str) -> list[str]:
    """The rows of the page's table that begins with this column, as they are written."""
    line = table_of(PAGE, first).line
    return [row for row in page(PAGE).splitlines()[line + 1 :] if row.startswith("|")]


def test_every_host_is_listed_with_its_provider_and_interfaces() -> None:
    expected = list(host_rows())
    assert rows("hosts")[: len(expected)] == expected


def test_every_interface_is_listed_with_its_paths() -> None:
    expected = list(interface_rows())
    assert rows("interface")[: len(expected)] == expected


def test_envoys_page_leads_to_the_list() -> None:
    assert "(providers.md)" in page("docs/envoy.md")
