"""Every command and setting of deploy/MODELS.md works, in its order, on a twin of each model."""

import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.deploy.documents import Sandbox, blocks, configure, make_host, read, section, table
from tests.dicom_files import gradient, make_dx
from tests.flows.program import Program, until
from tests.inference import twins
from triage.cli.command_line import parser
from triage.config import load_config
from triage.errors import TriageError
from triage.inference.bundle import load_bundle
from triage.inference.bundle_making import init_bundle
from triage.inference.captioner import load_captioner
from triage.inference.device import choose_device, classify_failure
from triage.inference.encoder import check_known_answer, load_encoder
from triage.pocket import BUNDLE
from triage.worker.serving import open_models

GUIDE = read("MODELS.md")
WEIGHTS = "/srv/models/medgemma-4b-it"
NO_JQ = pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MedGemma of a few thousand parameters, in the files that the hub has."""
    return twins.medgemma(tmp_path_factory.mktemp("weights") / "medgemma-4b-it")


@pytest.fixture
def host(tmp_path: Path, sqlite_url: str, weights: Path) -> Sandbox:
    """A host on which the weights have arrived."""
    host = make_host(tmp_path, sqlite_url)
    shutil.copytree(weights, host.path(WEIGHTS))
    return host


# --- the whole way


@NO_JQ
def test_the_commands_work_in_the_order_of_the_guide(host: Sandbox) -> None:
    """Settings are put into triage.toml where the guide says so; the daemon is down."""
    said: list[str] = []
    for language, body in steps():
        if language == "toml":
            configure(host, body)
            continue
        done = host.run(body)
        assert done.returncode == expected(body), f"{body}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        said.append(done.stdout)
    assert "gives its known answer" in "".join(said)
    config = load_config(host.path("/etc/triage/triage.toml"), {})
    assert [model.mode for model in config.models] == ["serve", "shadow"]


def steps() -> Iterator[tuple[str, str]]:
    for match in re.finditer(r"^```(sh|toml)\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL):
        yield match[1], match[2]


def expected(body: str) -> int:
    """`status` of a host without a running daemon says so by its exit code."""
    return 2 if "triage status" in body else 0


def test_there_are_no_other_fenced_blocks() -> None:
    assert set(re.findall(r"^```(\w*)\n", GUIDE, re.MULTILINE)) - {""} == {"sh", "toml"}


def test_commands_in_the_running_text_are_accepted_by_the_command_line() -> None:
    inline = re.findall(r"`(triage [^`]+)`", GUIDE)
    assert inline
    for command in inline:
        parser().parse_args(shlex.split(command)[1:])


def test_a_file_that_did_not_arrive_whole_is_found_before_it_is_used(host: Sandbox) -> None:
    make, check = blocks(GUIDE, "sh")[:2]
    assert host.run(make).returncode == 0
    with (host.path(WEIGHTS) / "model-00002-of-00002.safetensors").open("r+b") as file:
        file.truncate(1000)
    done = host.run(check)
    assert done.returncode != 0
    assert "model-00002-of-00002.safetensors: FAILED" in done.stdout


def test_medsiglip_goes_the_same_way(tmp_path: Path, sqlite_url: str) -> None:
    host = make_host(tmp_path, sqlite_url)
    twins.medsiglip(host.path(WEIGHTS))
    made, named = blocks(GUIDE, "sh")[2], blocks(GUIDE, "toml")[0]
    configure(host, named)
    done = host.run(made + "\ntriage check --record")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SiglipModel" in done.stdout
    assert re.search(r"captions +no", done.stdout)


# --- what the daemon then says


def test_a_bundle_without_a_head_is_served_and_its_studies_say_why_nothing_was_scored(
    tmp_path: Path, sqlite_url: str, weights: Path
) -> None:
    init_bundle(weights, tmp_path / "bundle", name="chest", device="cpu")
    program = Program(tmp_path, sqlite_url, demonstration=False)
    with program.configuration.open("a") as file:
        file.write(f'[[models]]\nname = "chest"\nbundle = "{tmp_path}/bundle"\n')
    program.start()
    try:
        assert program.send([make_dx(gradient(128, 128))]) == [0x0000]
        (study,) = until(analysed(program))
        (model,) = until(lambda: program.status()["models"])  # once the worker has told of itself
    finally:
        program.stop()
    assert "no classifier for this encoder" in study["analysis_reason"]
    assert (study["analysis"], study["findings"], study["caption"]) == ("not_eligible", [], "")
    assert study["reading_order"] == 1
    assert {key: model[key] for key in ("name", "served", "mode")} == {
        "name": "chest",
        "served": True,
        "mode": "serve",
    }
    assert "no classifier for this encoder" in GUIDE


def analysed(program: Program) -> Callable[[], list[dict[str, object]] | None]:
    def probe() -> list[dict[str, object]] | None:
        studies = list(program.worklist().values())
        return studies if studies and studies[0]["analysis"] != "pending" else None

    return probe


def test_without_captions_the_language_model_stays_on_the_disk(
    tmp_path: Path, weights: Path
) -> None:
    bundle = init_bundle(weights, tmp_path / "bundle", name="chest", device="cpu")
    assert load_encoder(bundle, device="cpu", captions=True).whole is not None
    settings = tmp_path / "triage.toml"
    for words in ('enabled = false\nwhen = "all"', 'enabled = true\nwhen = "never"'):
        settings.write_text(
            f'[[models]]\nname = "chest"\nbundle = "{bundle.directory}"\n[caption]\n{words}\n'
        )
        (model,) = open_models(load_config(settings, {}), slot=0)
        assert model.describe is None


# --- figures


def test_the_memory_table_is_what_the_parameters_take() -> None:
    """Parameter counts of the published shapes, in bytes of each dtype."""
    counts = {"vision tower": 416_866_032, "all of it": 4_300_079_472, "MedSigLIP": 428_600_000}
    rows = {row[0]: row[1:] for row in table(section(GUIDE, "Memory and time")) if len(row) == 3}
    checked = 0
    for loaded, (float32, bfloat16) in rows.items():
        name = "MedSigLIP" if loaded.startswith("MedSigLIP:") else loaded.rpartition(": ")[2]
        if name in counts:
            checked += 1
            assert float(float32.removesuffix(" GB")) == pytest.approx(counts[name] * 4e-9, abs=0.1)
            assert float(bfloat16.removesuffix(" GB")) == pytest.approx(
                counts[name] * 2e-9, abs=0.1
            )
    assert checked == 3
    for figure in ("4,300,079,472", "416,866,032", "878,300,338"):
        assert figure in GUIDE


# --- the table of errors: each is brought about


def bundle_of(weights: Path, directory: Path) -> Path:
    copy = shutil.copytree(weights, directory / "encoder")
    init_bundle(copy, directory / "bundle", name="chest", device="cpu")
    return directory


def touched(directory: Path, name: str) -> None:
    path = directory / name
    path.write_bytes(path.read_bytes() + b" ")


def missing_encoder(made: Path) -> None:
    shutil.rmtree(made / "encoder")
    load_bundle(made / "bundle")


def only_pickles(made: Path) -> None:
    (made / "other").mkdir()
    shutil.copy(made / "encoder/config.json", made / "other")
    (made / "other/pytorch_model.bin").write_bytes(b"x")
    init_bundle(made / "other", made / "new", name="other")


def another_architecture(made: Path) -> None:
    config = made / "encoder/config.json"
    settings = json.loads(config.read_text()) | {"architectures": ["LlavaForConditionalGeneration"]}
    config.write_text(json.dumps(settings))
    init_bundle(made / "encoder", made / "new", name="other")


def made_twice(made: Path) -> None:
    init_bundle(made / "encoder", made / "bundle", name="chest")


def changed_byte(made: Path) -> None:
    touched(made / "encoder", "config.json")
    load_bundle(made / "bundle")


def added_file(made: Path) -> None:
    (made / "encoder/notes.txt").write_text("x")
    load_bundle(made / "bundle")


def stray_file(made: Path) -> None:
    (made / "bundle/notes.txt").write_text("x")
    load_bundle(made / "bundle")


def cut_short(made: Path) -> None:
    with (made / "encoder/model-00001-of-00002.safetensors").open("r+b") as file:
        file.truncate(1000)
    init_bundle(made / "encoder", made / "new", name="other", device="cpu")


def mixed_models(made: Path) -> None:
    config = made / "encoder/config.json"
    settings = json.loads(config.read_text())
    settings["vision_config"]["hidden_size"] = 96
    config.write_text(json.dumps(settings))
    init_bundle(made / "encoder", made / "new", name="other", device="cpu")


def unknown_hardware(made: Path) -> None:
    bundle = load_bundle(made / "bundle")
    check_known_answer(bundle, load_encoder(bundle, device="cpu", dtype="bfloat16"))


def other_answer(made: Path) -> None:
    bundle = load_bundle(made / "bundle")
    encoder = load_encoder(bundle, device="cpu")
    encoder.mean.add_(0.1)
    check_known_answer(bundle, encoder)


def no_gpu(made: Path) -> None:
    choose_device(f"cuda:{torch.cuda.device_count()}")


def without(made: Path, *names: str) -> None:
    """Make a bundle of an encoder that lacks files, and ask it for captions."""
    for name in names:
        (made / "encoder" / name).unlink()
    bundle = init_bundle(made / "encoder", made / "new", name="other", device="cpu")
    encoder = load_encoder(bundle, device="cpu", captions=True)
    load_captioner(bundle, encoder, maximum_new_tokens=4)


def no_tokenizer(made: Path) -> None:
    without(made, "tokenizer.json")


def no_template(made: Path) -> None:
    without(made, "chat_template.json")


def pocket_served(made: Path) -> None:
    settings = made / "triage.toml"
    settings.write_text(f'[[models]]\nname = "pocket"\nbundle = "{BUNDLE}"\n')
    (model,) = open_models(load_config(settings, {}), slot=0)
    model.check()


def too_large_a_batch(made: Path) -> None:
    raise classify_failure(torch.cuda.OutOfMemoryError("CUDA out of memory."))


ERRORS: dict[str, Callable[[Path], None]] = {
    "the encoder directory … does not exist": missing_encoder,
    "holds no config.json with safetensors weights": only_pickles,
    "which is not supported": another_architecture,
    "is a bundle already": made_twice,
    "has changed since the bundle was made": changed_byte,
    "has other files than listed": added_file,
    "is not listed in bundle.json": stray_file,
    "cannot be read as safetensors": cut_short,
    "do not fit the vision tower of its config.json": mixed_models,
    "has no known answer for": unknown_hardware,
    "gives another answer on": other_answer,
    "does not exist: torch sees": no_gpu,
    "has no tokenizer that can be loaded": no_tokenizer,
    "has no chat template": no_template,
    "the built-in model serves only in demonstration mode": pocket_served,
    "the batch did not fit the memory of the device": too_large_a_batch,
}


def test_every_error_of_the_table_is_brought_about_below() -> None:
    rows = table(section(GUIDE, "What each error means"))
    assert [row[0].strip("`") for row in rows] == list(ERRORS)


@pytest.mark.parametrize("message", ERRORS)
def test_the_error_reads_as_the_table_says(message: str, tmp_path: Path, weights: Path) -> None:
    made = bundle_of(weights, tmp_path)
    pattern = ".*".join(map(re.escape, message.split("…")))
    with pytest.raises(TriageError, match=pattern) as caught:
        ERRORS[message](made)
    assert caught.value.hint
