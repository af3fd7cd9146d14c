"""The generated code is that of the contract."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_committed_code_is_what_make_proto_generates(tmp_path: Path) -> None:
    subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc", "-I", "proto"),
            *(f"--python_out={tmp_path}", f"--pyi_out={tmp_path}", f"--grpc_python_out={tmp_path}"),
            "proto/limiter/v1/limiter.proto",
        ],
        cwd=ROOT,
        check=True,
    )

    for generated in sorted((tmp_path / "limiter" / "v1").iterdir()):
        assert generated.read_text() == (ROOT / "limiter" / "v1" / generated.name).read_text(), "run `make proto`"
