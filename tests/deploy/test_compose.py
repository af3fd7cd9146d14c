"""deploy/compose.yaml: as its schema wants it, and every path, port and flag in it is one that there is."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest

from limiter import __version__
from limiter.envoy.credentials import Credentials
from limiter.envoy.options import EnvoyOptions
from limiter.policy.document import parse_policy
from limiter.settings import Settings
from tests.deploy.files import DEPLOY, ROOT, Tree, client_address, document, limiter_address, served, tool, tree

COMPOSE: Final = DEPLOY / "compose.yaml"
ENVOY: Final = document(DEPLOY / "envoy" / "default.yaml")

#: $$ is how a compose file writes a $ for the container.
_VARIABLE: Final = re.compile(r"(?<!\$)\$\{([A-Z_]+)(:[-?][^}]*)?\}")


def services() -> Tree:
    found: Tree = document(COMPOSE)["services"]
    return found


def mounts(service: Tree) -> dict[str, Path]:
    """The files of the project that a service sees, by their paths there."""
    files = {}
    for mount in service["volumes"]:
        source, target, *_ = mount.split(":")
        if source.startswith("."):
            files[target] = DEPLOY / source
    return files


def settings() -> Settings:
    limiter = services()["limiter"]
    image = {"LIMITER_LISTEN": "0.0.0.0:50051", "LIMITER_HTTP": "0.0.0.0:9464", "LIMITER_DATA_DIR": "/data"}
    given = {name: _VARIABLE.sub("", value) for name, value in limiter["environment"].items()}
    return served(limiter["command"], image | given, mounts(limiter))


def test_the_schema_of_compose_files_has_nothing_against_it() -> None:
    assert tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)) == ""


def test_every_file_that_is_mounted_exists_and_nobody_can_write_to_it() -> None:
    for service in services().values():
        assert all(path.is_file() for path in mounts(service).values())
        for mount in service["volumes"]:
            assert mount.endswith(":ro") or mount.split(":")[0] in document(COMPOSE)["volumes"]


def test_limiter_starts_with_the_flags_variables_and_files_that_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    found = settings()
    assert found.store is None, "an empty LIMITER_STORE means the embedded store"
    assert found.policy is not None
    assert parse_policy(found.policy.read_text("utf-8")).organizations
    assert found.envoy is not None
    options = EnvoyOptions.read(found.envoy)
    given = services()["limiter"]["environment"]
    for credential in options.upstream_credentials:
        assert credential.env in given
        monkeypatch.setenv(str(credential.env), "sk-made-up")
    Credentials(options.upstream_credentials)


def test_the_image_is_the_one_of_this_version_and_built_from_this_project() -> None:
    limiter = services()["limiter"]
    assert limiter["image"] == f"limiter:{__version__}"
    assert (DEPLOY / limiter["build"]["context"]).resolve() == ROOT
    assert (ROOT / limiter["build"]["dockerfile"]).is_file()


def test_envoy_finds_limiter_where_its_configuration_says() -> None:
    host, port = limiter_address(ENVOY)
    assert (host, services()["envoy"]["network_mode"]) == ("127.0.0.1", "service:limiter")
    assert f"0.0.0.0:{port}" in settings().listen


def test_the_published_ports_are_served_and_reached_from_this_machine_only() -> None:
    http = settings().http_address
    assert http is not None
    expected = {client_address(ENVOY)[1], limiter_address(ENVOY)[1], http[1]}
    published = [port.split(":") for port in services()["limiter"]["ports"]]
    assert {host for host, _, _ in published} == {"127.0.0.1"}
    assert {int(inside) for _, _, inside in published} == expected


def test_envoy_gets_its_configuration_with_a_listener_that_can_be_reached(tmp_path: Path) -> None:
    envoy = services()["envoy"]
    (target,) = mounts(envoy)
    (command,) = envoy["command"]
    assert command.startswith("exec envoy ")
    (change,) = re.findall(r"\$\$\((sed .+)\)", command)
    done = subprocess.run(
        ["sh", "-c", change.replace(target, str(mounts(envoy)[target]))],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )  # fmt: skip - one call
    changed = tree(done.stdout)
    assert client_address(changed) == ("0.0.0.0", client_address(ENVOY)[1])  # noqa: S104 - in a container
    changed["static_resources"]["listeners"][0]["address"] = ENVOY["static_resources"]["listeners"][0]["address"]
    assert changed == ENVOY


def test_a_store_of_ones_own_is_one_that_limiter_accepts() -> None:
    valkey = services()["valkey"]
    assert valkey["profiles"] == ["valkey"]
    options: list[Any] = valkey["command"]
    assert options[options.index("--maxmemory-policy") + 1] == "noeviction"
    assert options[options.index("--appendonly") + 1] == "yes"
    url = "redis://valkey:6379/0"
    assert url in COMPOSE.read_text("utf-8")
    assert Settings.load({"store": url}).store is not None


@pytest.mark.parametrize("name", ["limiter", "envoy"])
def test_services_that_face_clients_have_no_rights_to_spare(name: str) -> None:
    service = services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


def test_limiter_is_given_the_time_that_its_end_takes() -> None:
    assert int(services()["limiter"]["stop_grace_period"].removesuffix("s")) >= settings().grace_s + 30
