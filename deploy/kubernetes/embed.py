"""Puts deploy/envoy/default.yaml into the ConfigMap of sidecar.yaml: `python -m deploy.kubernetes.embed`."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Final

MANIFEST: Final = Path(__file__).with_name("sidecar.yaml")
ENVOY: Final = Path(__file__).parents[1] / "envoy" / "default.yaml"

_ON_LOOPBACK: Final = "address: {socket_address: {address: 127.0.0.1, port_value: 10000}}"
_IN_A_POD: Final = "address: {socket_address: {address: 0.0.0.0, port_value: 10000}}"
_PLACE: Final = re.compile(r"(?<=^  envoy\.yaml: \|\n).*?(?=^---$)", re.MULTILINE | re.DOTALL)


def embedded(manifest: str, envoy: str) -> str:
    """The manifest with this configuration of Envoy, whose listener is reached from outside the pod."""
    _, _, configuration = envoy.partition("\nadmin:")  # the comment before it is for the file
    configuration = f"admin:{configuration}"
    if configuration.count(_ON_LOOPBACK) != 1:
        raise ValueError(f"{ENVOY} has no listener at {_ON_LOOPBACK}")
    text = textwrap.indent(configuration.replace(_ON_LOOPBACK, _IN_A_POD), "    ")
    return _PLACE.sub(lambda _: text, manifest, count=1)


if __name__ == "__main__":
    MANIFEST.write_text(embedded(MANIFEST.read_text("utf-8"), ENVOY.read_text("utf-8")), "utf-8")
