"""The generated code is that of the contract and of the trimmed messages of Envoy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROTO = ROOT / "proto"

#: The folders of generated code, and what protoc makes there: Envoy's files have messages only.
MADE = {
    "limiter/v1": ("--python_out", "--pyi_out", "--grpc_python_out"),
    "limiter/envoy/v3": ("--python_out", "--pyi_out"),
}


def test_every_proto_is_generated_somewhere() -> None:
    assert {str(path.parent.relative_to(PROTO)) for path in PROTO.rglob("*.proto")} == set(MADE)


@pytest.mark.parametrize("folder", MADE)
def test_the_committed_code_is_what_make_proto_generates(folder: str, tmp_path: Path) -> None:
    files = sorted(str(path.relative_to(ROOT)) for path in (PROTO / folder).glob("*.proto"))
    subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc", "-I", "proto"),
            *(f"{option}={tmp_path}" for option in MADE[folder]),
            *files,
        ],
        cwd=ROOT,
        check=True,
    )

    made = {path.name: path.read_text() for path in (tmp_path / folder).iterdir()}
    committed = {path.name: path.read_text() for path in (ROOT / folder).glob("*.py*") if path.name != "__init__.py"}
    assert committed == made, "run `make proto`"
