"""The shipped triage.toml names every key with its default, and no key that does not exist."""

import dataclasses
import itertools
import re
import tomllib
import typing
from enum import StrEnum
from pathlib import Path
from typing import Any

from triage.config import Config, load_config

SAMPLE = Path(__file__).parents[1] / "triage.toml"
KEY_LINE = re.compile(r"#(?=[a-z_]+ = |\[)")
FILLED_ELSEWHERE = {
    ("source",),  # the file itself
    ("orders", "peer_priority"),  # from [[receiver.peers]] default_priority
}


def uncommented() -> dict[str, Any]:
    """Read the sample with every commented key switched on."""
    lines = SAMPLE.read_text("utf-8").splitlines()
    return tomllib.loads("\n".join(KEY_LINE.sub("", line, count=1) for line in lines))


def plain(value: object) -> object:
    """Return a value as TOML gives it back."""
    match value:
        case StrEnum():
            return str(value)
        case Path():
            return str(value)
        case tuple():
            return [plain(each) for each in value]
        case dict():
            return {str(key): plain(each) for key, each in value.items()}
    return value


def differences(sample: dict[str, Any], kind: Any, path: tuple[str, ...] = ()) -> list[str]:
    """Say what differs between a table of the sample and a dataclass of the configuration."""
    hints = typing.get_type_hints(kind)
    found = []
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for name, field in fields.items():
        here = (*path, name)
        if here in FILLED_ELSEWHERE:
            continue
        arguments = typing.get_args(hints[name])
        if name not in sample:
            if here != ("audit",):
                found.append(f"{'.'.join(here)} is missing in the sample")
        elif dataclasses.is_dataclass(hints[name]):
            found += differences(sample[name], hints[name], here)
        elif arguments and dataclasses.is_dataclass(arguments[0]):
            found += differences(sample[name][0], arguments[0], here)
        else:
            found += _value_differs(sample[name], field, here)
    found += [f"{'.'.join((*path, name))} does not exist" for name in sample.keys() - fields.keys()]
    return found


def _value_differs(
    shown: object, field: dataclasses.Field[Any], path: tuple[str, ...]
) -> list[str]:
    if field.default is not dataclasses.MISSING:
        default = field.default
    elif field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    else:
        return []  # required: the sample shows an example
    example = len(path) > 2 or path[0] == "models"
    if example and (default in ("", None)):
        return []  # an entry of a list shows what one may look like
    if plain(default) == shown and type(plain(default)) is type(shown):
        return []
    return [f"{'.'.join(path)}: the sample says {shown!r}, the code {plain(default)!r}"]


def test_the_sample_shows_every_key_with_its_default_and_nothing_else() -> None:
    assert differences(uncommented(), Config) == []


def test_the_sample_as_shipped_changes_no_default() -> None:
    shipped = dataclasses.replace(load_config(SAMPLE, {}), source=None)
    assert shipped == Config()


def test_the_sample_with_every_example_switched_on_is_accepted(tmp_path: Path) -> None:
    text = "\n".join(
        KEY_LINE.sub("", line, count=1)
        for line in SAMPLE.read_text("utf-8").splitlines()
        if not line.startswith("#url_file")
    )
    path = tmp_path / "triage.toml"
    path.write_text(text, "utf-8")
    config = load_config(path, {})
    assert config.receiver.peers[0].ae_title == "CR_ROOM_1"
    assert config.models[0].name == "chest"


def test_every_line_is_prose_a_key_a_section_or_blank() -> None:
    for line in SAMPLE.read_text("utf-8").splitlines():
        assert re.fullmatch(r"|#( .*)?|#?[a-z_]+ = .+|#?\[{1,2}[a-z_.]+\]{1,2}", line), line
        assert len(line) <= 100, line


def test_every_key_is_explained_above_it() -> None:
    lines = SAMPLE.read_text("utf-8").splitlines()
    for above, line in itertools.pairwise(lines):
        if KEY_LINE.match(line) and not line.startswith("#["):
            assert above.startswith("#"), f"{line} has no comment above it"
