"""The image: what can be said of it without building it."""

from __future__ import annotations

import json
import re
import tomllib
from fnmatch import fnmatchcase
from typing import Final, NamedTuple

import pytest

from limiter.settings import Settings
from tests.deploy.files import DEPLOY, ROOT, served, tool

DOCKERFILE: Final = DEPLOY / "Dockerfile"


class Step(NamedTuple):
    """An instruction and what stands behind it."""

    word: str
    text: str


def stages() -> list[list[Step]]:
    """The instructions of each stage; each begins with its FROM."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text("utf-8"), flags=re.MULTILINE)
    lines = re.sub(r"\s*\\\n\s*", " ", text).splitlines()
    found: list[list[Step]] = []
    for line in lines:
        word, _, rest = line.partition(" ")
        if word == "FROM":
            found.append([])
        if word and found:
            found[-1].append(Step(word, rest.strip()))
    return found


def texts(stage: list[Step], word: str) -> list[str]:
    return [step.text for step in stage if step.word == word]


def environment(stage: list[Step]) -> dict[str, str]:
    return dict(pair.split("=", 1) for text in texts(stage, "ENV") for pair in text.split())


def test_a_linter_has_nothing_against_the_dockerfile() -> None:
    assert tool("hadolint", str(DOCKERFILE)) == ""


def test_what_is_copied_exists_and_is_not_ignored() -> None:
    build, _ = stages()
    sources = [source for text in texts(build, "COPY") for source in text.split()[:-1]]
    kept = {
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines()
        if line.startswith("!")
    }
    assert sorted(source.removeprefix("./") for source in sources) == sorted(kept)
    assert all((ROOT / source).exists() for source in sources)


def test_what_the_build_reads_is_copied() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    build, _ = stages()
    copied = " ".join(texts(build, "COPY")).split()
    for name in (project["project"]["readme"], *project["project"]["license-files"], "pyproject.toml"):
        assert name in copied
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["limiter"]


def test_only_the_finished_environment_gets_into_the_image() -> None:
    build, image = stages()
    assert texts(build, "FROM") == ["python:${PYTHON}-slim AS build"]
    assert texts(image, "FROM") == ["python:${PYTHON}-slim"]
    assert texts(image, "COPY") == ["--from=build /opt/limiter /opt/limiter"]
    (install,) = (text for text in texts(build, "RUN") if "install" in text)
    assert "--constraint constraints.txt" in install
    assert "--without-pip /opt/limiter" in install
    assert "--group" not in install


def test_the_python_is_one_that_the_project_supports() -> None:
    (version,) = re.findall(r"^ARG PYTHON=(\S+)$", DOCKERFILE.read_text("utf-8"), re.MULTILINE)
    required = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["requires-python"]
    least = required.removeprefix(">=")
    assert [int(part) for part in version.split(".")] >= [int(part) for part in least.split(".")]


def test_the_image_runs_as_nobody_important_and_owns_nothing_but_its_data() -> None:
    _, image = stages()
    (user,) = texts(image, "USER")
    uid, gid = user.split(":")
    assert uid.isdigit() and int(uid) > 0  # noqa: PT018 - one claim
    (made,) = texts(image, "RUN")
    assert f"useradd --uid {uid} --gid {gid}" in made
    assert f"--owner {uid} --group {gid} --mode 0700 /data" in made
    assert image.index(Step("USER", user)) > image.index(Step("RUN", made))


def test_the_settings_of_the_image_are_settings_and_its_data_is_in_the_volume() -> None:
    _, image = stages()
    settings = served(json.loads(texts(image, "CMD")[0]), environment(image), {})
    assert json.loads(texts(image, "ENTRYPOINT")[0]) == ["limiter"]
    assert texts(image, "VOLUME") == [str(settings.data_dir)]
    assert settings.http_address is not None
    (listen,) = settings.listen
    ports = [listen.rpartition(":")[2], str(settings.http_address[1])]
    assert texts(image, "EXPOSE") == [" ".join(ports)]
    assert Settings().grace_s < 90, "the Dockerfile says how long `docker stop` is to wait"


def test_the_health_check_asks_what_is_served() -> None:
    _, image = stages()
    (check,) = texts(image, "HEALTHCHECK")
    options, _, command = check.partition("CMD ")
    program, *_, code = json.loads(command)
    assert program == "python"
    assert "http://127.0.0.1:9464/healthz" in code
    compile(code, "HEALTHCHECK", "exec")
    assert environment(image)["LIMITER_HTTP"].endswith(":9464")
    assert "--start-period" in options


@pytest.mark.parametrize(
    "name", ["data/pepper", ".git/config", ".venv/bin/python", "tests/servers.py", "deploy/x.yaml"]
)
def test_the_builder_sees_no_secret_and_no_ballast(name: str) -> None:
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    assert patterns[0] == "*"
    back = [line.removeprefix("!") for line in patterns if line.startswith("!")]
    assert not any(fnmatchcase(name, one) or name.startswith(f"{one}/") for one in back)
