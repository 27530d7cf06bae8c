"""triage.toml is read strictly: what is not understood is refused with file, key and reason."""

from pathlib import Path

import pytest

from triage.config import Config, load_config
from triage.errors import ConfigError
from triage.records import Mode, Rank


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "triage.toml"
    path.write_text(text, "utf-8")
    return path


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    path = written(tmp_path, "")
    assert load_config(path, {}) == Config(source=path)


def test_tables_lists_and_enums_become_typed_sections(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
        demonstration = true
        [receiver]
        port = 104
        [[receiver.peers]]
        ae_title = "CT1"
        address = "10.1.2.3"
        default_priority = "STAT"
        [folders]
        watch = ["/in/a", "/in/b"]
        [[models]]
        name = "chest"
        bundle = "/models/chest"
        mode = "shadow"
        """,
    )
    config = load_config(path, {})
    assert config.demonstration
    assert config.receiver.port == 104
    assert config.receiver.peers[0].default_priority is Rank.STAT
    assert config.folders.watch == (Path("/in/a"), Path("/in/b"))
    assert config.models[0].mode is Mode.SHADOW
    assert not config.models[0].serve_without_local_calibration


REFUSED = {
    "a key that does not exist": ("[receiver]\nprot = 1", r"unknown key \[receiver\] prot .*port"),
    "a section that does not exist": ("[reciever]\n", r"unknown key reciever .*receiver"),
    "a word where a number belongs": (
        '[receiver]\nport = "1"',
        r"\[receiver\] port must be a whole",
    ),
    "true where a number belongs": (
        "[receiver]\nport = true",
        r"\[receiver\] port must be a whole",
    ),
    "a port out of range": ("[receiver]\nport = 70000", r"\[receiver\] port must lie between"),
    "an AE title too long": (f'[receiver]\nae_title = "{"A" * 17}"', r"ae_title needs 1 to 16"),
    "an unknown choice": ('[folders]\nafter = "burn"', r"\[folders\] after must be"),
    "a model without a bundle": ('[[models]]\nname = "a"', r"bundle is missing"),
    "a calibration that is waived by a word": (
        '[[models]]\nname="a"\nbundle="x"\nserve_without_local_calibration = "yes"',
        r"serve_without_local_calibration must be",
    ),
    "two models of one name": (
        '[[models]]\nname="a"\nbundle="x"\n[[models]]\nname="a"\nbundle="y"',
        r"same name",
    ),
    "a time zone that does not exist": ('[site]\ntimezone = "Mars/Base"', r"no IANA time zone"),
    "a heartbeat slower than the lease": ("[worker]\nheartbeat_s = 90", r"heartbeat_s < lease_s"),
    "the loader's own field": ('source = "x"', r"unknown key source"),
    "text that is no TOML": ("[receiver", r"is no TOML"),
}


@pytest.mark.parametrize(("text", "reason"), REFUSED.values(), ids=REFUSED)
def test_refused(tmp_path: Path, text: str, reason: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError, match=reason) as caught:
        load_config(path, {})
    assert str(path) in str(caught.value)
    assert caught.value.hint


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "[receiver]\nport = 104\n")
    environ = {
        "TRIAGE_RECEIVER__PORT": "11113",
        "TRIAGE_RECEIVER__AE_TITLE": "NIGHT",
        "TRIAGE_DEMONSTRATION": "true",
        "TRIAGE_FOLDERS__WATCH": '["/in"]',
        "HOME": "/home/nobody",
    }
    config = load_config(path, environ)
    assert config.receiver.port == 11113
    assert config.receiver.ae_title == "NIGHT"
    assert config.demonstration
    assert config.folders.watch == (Path("/in"),)


def test_an_unknown_name_in_the_environment_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown key \[receiver\] prot"):
        load_config(written(tmp_path, ""), {"TRIAGE_RECEIVER__PROT": "1"})


def test_a_secret_may_stand_in_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("postgresql://triage:hunter2@db/triage\n", "utf-8")
    path = written(tmp_path, f'[database]\nurl_file = "{tmp_path / "url"}"\n')
    config = load_config(path, {})
    assert config.database.url == "postgresql://triage:hunter2@db/triage"
    assert "hunter2" not in repr(config)


def test_a_secret_given_twice_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, '[database]\nurl = "sqlite:///a"\nurl_file = "b"\n')
    with pytest.raises(ConfigError, match="both given"):
        load_config(path, {})


def test_the_file_is_named_by_the_argument_then_by_the_environment(tmp_path: Path) -> None:
    named = written(tmp_path, "[receiver]\nport = 1\n")
    other = tmp_path / "other.toml"
    other.write_text("[receiver]\nport = 2\n", "utf-8")
    assert load_config(named, {"TRIAGE_CONFIG": str(other)}).receiver.port == 1
    assert load_config(None, {"TRIAGE_CONFIG": str(other)}).receiver.port == 2


def test_a_file_that_is_not_there_is_an_error_not_a_default(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "absent.toml", {})


@pytest.mark.parametrize("name", ["TRIAGE_DATABASE__URL", "TRIAGE_DATABASE"])
@pytest.mark.parametrize("text", ['["postgresql://u:SECRET@h/x"]', "postgresql://u:SECRET@h/x"])
def test_a_password_of_the_wrong_shape_is_not_repeated(name: str, text: str) -> None:
    if (name, text[0]) == ("TRIAGE_DATABASE__URL", "p"):
        assert "SECRET" not in repr(load_config(None, {name: text}))
        return
    with pytest.raises(ConfigError) as raised:
        load_config(None, {name: text})
    assert "SECRET" not in str(raised.value)
    assert "database" in str(raised.value)


def test_a_wrong_value_of_the_environment_is_not_blamed_on_the_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "triage.toml"
    path.write_text("", "utf-8")
    with pytest.raises(ConfigError, match=r"and environment: .*port"):
        load_config(path, {"TRIAGE_RECEIVER__PORT": "99999"})
