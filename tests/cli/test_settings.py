"""The settings of a sidecar, wherever they come from."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from limiter.cli.settings_flags import with_settings
from limiter.domain.errors import InvalidArgument
from limiter.settings import Settings, SettingsInvalid


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIMITER_HTTP")


def file(text: str) -> dict[str, str]:
    """The flags that name a file with this text."""
    Path("limiter.yaml").write_text(text)
    return {"config": "limiter.yaml"}


def test_without_anything_the_defaults_hold() -> None:
    settings = Settings.load()

    assert settings.data_dir == Path("data")
    assert [listener.address for listener in settings.listeners()] == ["127.0.0.1:50051"]
    assert settings.http_address == ("127.0.0.1", 9464)
    assert settings.store is None


def test_a_flag_goes_before_the_environment_and_that_before_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = file("{workers: 2, grace_s: 2.5, log_level: debug}")
    monkeypatch.setenv("LIMITER_WORKERS", "3")
    monkeypatch.setenv("LIMITER_GRACE_S", "3.5")

    settings = Settings.load({**flags, "workers": "4", "fsync": None})

    assert (settings.workers, settings.grace_s, settings.log_level) == (4, 3.5, "debug")


def test_the_environment_may_name_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    file("workers: 7")
    monkeypatch.setenv("LIMITER_CONFIG", "limiter.yaml")

    assert Settings.load().workers == 7


def test_listeners_are_separated_by_white_space_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMITER_LISTEN", "0.0.0.0:50051  unix:/run/l.sock,trusted,mode=0660\n")

    tcp, unix = Settings.load().listeners()

    assert (tcp.address, unix.address, unix.trusted) == ("0.0.0.0:50051", "unix:/run/l.sock", True)


def test_listeners_are_a_list_in_the_file() -> None:
    settings = Settings.load(file("listen: [127.0.0.1:1, 127.0.0.1:2]"))

    assert settings.listen == ("127.0.0.1:1", "127.0.0.1:2")


def test_an_empty_variable_takes_back_what_the_file_says(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = file("{policy: p.yaml, http: '127.0.0.1:1', listen: [127.0.0.1:1], store: 'redis://host'}")
    for name in ("POLICY", "HTTP", "LISTEN", "STORE"):
        monkeypatch.setenv(f"LIMITER_{name}", "")

    settings = Settings.load(flags)

    assert (settings.policy, settings.http_address, settings.listen, settings.store) == (None, None, (), None)


def test_unknown_names_in_the_file_are_refused_with_a_hint() -> None:
    with pytest.raises(SettingsInvalid) as caught:
        Settings.load(file("worker: 4\nconfig: other.yaml\n"))

    assert caught.value.mistakes[0] == "limiter.yaml: worker: unknown setting; did you mean workers?"
    assert caught.value.mistakes[1].startswith("limiter.yaml: config: unknown setting")


@pytest.mark.parametrize("text", ["- a list", "workers: [", "workers: 1\nworkers: 2", ""])
def test_a_file_that_is_no_mapping_is_refused(text: str) -> None:
    with pytest.raises(SettingsInvalid, match=r"limiter\.yaml"):
        Settings.load(file(text))


def test_every_mistake_is_named_as_it_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMITER_WORKERS", "99")

    with pytest.raises(SettingsInvalid) as caught:
        Settings.load({**file("fsync: sometimes"), "log_level": "loud"})

    flag, variable, name = sorted(caught.value.mistakes)
    assert flag.startswith("--log-level: 'loud' is not valid")
    assert variable.startswith("LIMITER_WORKERS: '99' is not valid")
    assert name.startswith("fsync: 'sometimes' is not valid")


@pytest.mark.parametrize(
    "flags",
    [
        {"listen": ["somewhere"]},
        {"admin_listen": ["0.0.0.0:1"]},
        {"http": "9464"},
        {"tls_cert": "cert.pem"},
        {"token_file": "missing"},
        {"store": "http://host"},
        {"max_backlog": 0},
    ],
)
def test_what_cannot_work_is_refused_at_once(flags: dict[str, object]) -> None:
    with pytest.raises(SettingsInvalid):
        Settings.load(flags)


def test_the_stores_password_is_shown_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.load({"store": "redis://user:geheim@host:6379/0"})
    assert settings.store is not None
    assert settings.store.get_secret_value() == "redis://user:geheim@host:6379/0"

    monkeypatch.setenv("LIMITER_STORE", "redis://user:gehe@im@host")
    with pytest.raises(SettingsInvalid) as caught:
        Settings.load()

    assert "geheim" not in f"{settings!r} {settings} {settings.model_dump_json()}"
    assert "gehe" not in str(caught.value)


def test_an_admin_listener_needs_proof_and_serves_admin_alone(directory: Path) -> None:
    (directory / "token").write_text("t" * 16)

    (caller, admin) = Settings.load({"token_file": "token", "admin_listen": ["127.0.0.1:2"]}).listeners()

    assert (set(caller.services), set(admin.services)) == ({"limiter", "envoy"}, {"admin"})
    assert caller.token == admin.token == "t" * 16


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings.load().workers = 2  # type: ignore[misc] # the point


def test_every_setting_has_a_flag() -> None:
    app = typer.Typer()
    seen: list[Settings] = []

    @app.command()
    @with_settings
    def serve(*, settings: Settings) -> None:
        seen.append(settings)

    words = [
        "--listen",
        "127.0.0.1:1",
        "--listen",
        "127.0.0.1:2",
        "--http",
        "",
        "--workers",
        "3",
        "--log-level",
        "debug",
    ]
    result = CliRunner().invoke(app, words)

    assert result.exit_code == 0, result.output
    assert seen == [
        Settings.load({"listen": ["127.0.0.1:1", "127.0.0.1:2"], "http": "", "workers": 3, "log_level": "debug"})
    ]


def test_a_wrong_flag_is_named_as_a_flag() -> None:
    with pytest.raises(InvalidArgument, match=r"^--grace-s: 'long' is not valid"):
        Settings.load({"grace_s": "long"})
