"""How commands end: exit codes, messages, signals and pipes."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from limiter.v1 import limiter_pb2 as pb
from tests.cli.conftest import CommandLine
from tests.cli.fake_sidecar import Fails, FakeSidecar, NeverAnswers
from tests.cli.test_seeing import row

LIMITER = (sys.executable, "-m", "limiter")


@pytest.mark.parametrize(
    ("status", "exit_code"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, 2),
        (grpc.StatusCode.UNAUTHENTICATED, 7),
        (grpc.StatusCode.PERMISSION_DENIED, 7),
        (grpc.StatusCode.NOT_FOUND, 5),
        (grpc.StatusCode.ALREADY_EXISTS, 6),
        (grpc.StatusCode.FAILED_PRECONDITION, 6),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 4),
        (grpc.StatusCode.UNAVAILABLE, 4),
        (grpc.StatusCode.INTERNAL, 1),
    ],
)
def test_each_grpc_status_has_its_exit_code_and_its_message_is_shown(
    status: grpc.StatusCode, exit_code: int, limiter: CommandLine, sidecar: FakeSidecar
) -> None:
    sidecar.answers("ListKeys", Fails(status, "why it is so"))

    output = limiter.run("keys", "list", "--format", "json", exit_code=exit_code)

    assert output.err.startswith("limiter: why it is so")
    assert output.out == ""


def test_a_listener_without_admin_is_named_in_plain_words(limiter: CommandLine, sidecar: FakeSidecar) -> None:
    sidecar.answers("ListKeys", Fails(grpc.StatusCode.UNIMPLEMENTED, "Method not found!"))

    output = limiter.run("keys", "list", exit_code=2)

    assert "does not serve this call" in output.err


def test_a_sidecar_that_does_not_answer_in_time_is_unreachable(limiter: CommandLine, sidecar: FakeSidecar) -> None:
    sidecar.answers("ListKeys", NeverAnswers())

    output = limiter.run("keys", "list", "--timeout", "100ms", exit_code=4)

    assert "within 0.1 seconds" in output.err


def test_where_there_is_no_sidecar_the_message_says_how_to_start_one(limiter: CommandLine) -> None:
    output = limiter.run("keys", "list", exit_code=4)

    assert output.err == "limiter: no sidecar at data/admin.sock: start one with `limiter serve --data-dir data`\n"


def test_the_socket_of_a_dead_sidecar_counts_as_none(limiter: CommandLine, directory: Path) -> None:
    (directory / "d").mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind("d/limiter.sock")

    output = limiter.run(*("headroom", "acme/search/bot", "--data-dir", str(directory / "d")), exit_code=4)

    assert "no sidecar at d/limiter.sock" in output.err


def test_an_address_that_nobody_serves_is_named(limiter: CommandLine) -> None:
    output = limiter.run("keys", "list", "--admin", "127.0.0.1:1", exit_code=4)

    assert "no sidecar at 127.0.0.1:1" in output.err


def test_the_data_directory_comes_from_the_flag_the_environment_or_the_file(
    limiter: CommandLine, sidecar: FakeSidecar, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (directory / "data").rename(directory / "elsewhere")
    (directory / "limiter.yaml").write_text("data_dir: elsewhere\n")

    limiter.run("keys", "list", exit_code=4)
    limiter.run("keys", "list", "--data-dir", "elsewhere")
    monkeypatch.setenv("LIMITER_CONFIG", "limiter.yaml")
    limiter.run("keys", "list")
    monkeypatch.setenv("LIMITER_DATA_DIR", "nowhere")
    limiter.run("keys", "list", exit_code=4)

    assert len(sidecar.asked) == 2


def test_a_socket_whose_path_would_be_too_long_is_found_by_its_address_file(
    limiter: CommandLine, sidecar: FakeSidecar, directory: Path
) -> None:
    far = directory / "a-long-name" / ("x" * 120)
    far.mkdir(parents=True)
    (far / "admin.address").write_text(f"unix:{sidecar.data_dir}/admin.sock\n")

    limiter.run("keys", "list", "--data-dir", str(far))

    assert len(sidecar.asked) == 1


def test_the_admin_token_is_shown_to_a_remote_sidecar(
    limiter: CommandLine, sidecar: FakeSidecar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIMITER_ADMIN", sidecar.address)
    monkeypatch.setenv("LIMITER_ADMIN_TOKEN", "t" * 16)

    limiter.run("keys", "list")

    assert sidecar.asked[0].metadata["authorization"] == f"Bearer {'t' * 16}"


def test_a_missing_certificate_is_a_usage_error(limiter: CommandLine, sidecar: FakeSidecar) -> None:
    output = limiter.run("keys", "list", "--admin", sidecar.address, "--tls-ca", "missing.pem", exit_code=2)

    assert "missing.pem" in output.err


def test_a_remote_sidecar_is_reached_by_tls_under_the_name_in_its_certificate(
    limiter: CommandLine, directory: Path
) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("the openssl program is not installed here")
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1")
    name = ("-subj", "/CN=limiter", "-addext", "subjectAltName=DNS:limiter.example")
    command = ["openssl", "req", "-x509", *curve, *name, "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(command, check=True, capture_output=True)
    key, certificate = (directory / file for file in ("key.pem", "cert.pem"))
    fake = FakeSidecar(directory)
    fake.start(grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())]))

    trusting = ("keys", "list", "--admin", fake.address, "--tls-ca", "cert.pem")
    limiter.run(*trusting, "--tls-server-name", "limiter.example")
    limiter.run(*trusting, exit_code=4)  # it is not 127.0.0.1's certificate
    limiter.run("keys", "list", "--admin", fake.address, "--tls", exit_code=4)  # nor one that the system trusts

    assert len(fake.asked) == 1
    fake.close()


def test_ctrl_c_ends_a_command_with_130_and_no_traceback(sidecar: FakeSidecar) -> None:
    sidecar.answers("ReadLedger", [row(1), NeverAnswers()])
    command = [*LIMITER, "ledger", "tail", "--follow", "--format", "json"]

    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline()  # the first row is here before the stream ends
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)

    assert process.returncode == 130
    assert said == b""


def test_a_reader_that_goes_away_ends_a_command_without_a_word(sidecar: FakeSidecar) -> None:
    sidecar.answers("ReadLedger", [row(seq) for seq in range(2000)])

    with subprocess.Popen([*LIMITER, "ledger", "export"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()
        process.wait(20)

    assert process.returncode == 141
    assert said == b""


def test_tables_in_a_pipe_are_neither_coloured_nor_folded(limiter: CommandLine, sidecar: FakeSidecar) -> None:
    long = f"acme/search/{'b' * 120}"
    sidecar.answers("ListKeys", pb.ListKeysResponse(keys=[pb.Key(key=long, enabled=True)]))

    output = limiter.run("keys", "list")

    assert output.row(long, "yes")
    assert "\x1b" not in output.out


def test_tables_fit_the_width_that_the_environment_asks_for(
    limiter: CommandLine, sidecar: FakeSidecar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    long = f"acme/search/{'b' * 120}"
    sidecar.answers("ListKeys", pb.ListKeysResponse(keys=[pb.Key(key=long, enabled=True)]))

    output = limiter.run("keys", "list")

    assert max(map(len, output.lines)) <= 60
    assert output.out.count("b") == 121  # folded, not cut off ("enabled" has one)
