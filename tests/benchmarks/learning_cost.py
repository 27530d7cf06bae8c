"""What a bundle costs where it serves: a process of its own that answers images one by one.

`python -m tests.benchmarks.learning_cost BUNDLE FILE...` loads the bundle as the worker does
(`open_models`), looks at each DICOM file alone and prints one JSON document. Processor time on one
thread, so that the figure does not hang on what else the machine does.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.benchmarks.measuring import configuration, environment

if TYPE_CHECKING:
    from triage.worker.models import LoadedModel

MIB: Final = 1 << 20
WARM: Final = 3  # first looks of a process, which are not the usual ones


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of one image, median, from views to findings; disk with all encoders; largest memory."""

    model_ms: float
    decode_ms: float
    disk_mib: float
    memory_mib: float


def cost(bundle: Path, files: Sequence[Path]) -> Cost:
    """Measure in a new process, whose memory is nobody else's."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.learning_cost", str(bundle), *map(str, files)],
        capture_output=True,
        text=True,
        check=False,
        env=environment(OMP_NUM_THREADS="1"),
    )
    if done.returncode:
        raise RuntimeError(f"{bundle.name} cannot be served: {done.stderr[-2000:]}")
    return Cost(**json.loads(done.stdout))


def main(bundle: Path, files: Sequence[Path]) -> None:
    import tempfile

    from triage.config import load_config
    from triage.worker.serving import open_models

    with tempfile.TemporaryDirectory() as folder:
        entry = f'[[models]]\nname = "chest"\nbundle = "{bundle}"\ndevices = ["cpu"]\n'
        words = '[caption]\nwhen = "never"\n'  # words of the worklist are not the classifier's
        path = configuration(Path(folder), 11112, demonstration=True, more=entry + words)
        (model,) = open_models(load_config(path, {}), slot=0)
    model.check()
    if not model.served or model.classify is None:
        raise SystemExit("this bundle does not serve")
    print(json.dumps(_measured(model, bundle, files)))


def _measured(model: "LoadedModel", bundle: Path, files: Sequence[Path]) -> dict[str, float]:
    import numpy as np

    from triage.imaging.subject import DecodeTask, decode_subject
    from triage.worker.models import Encoded

    decode_s, model_s = [], []
    for path in files:
        began = time.process_time()
        subject = decode_subject(DecodeTask(paths=(path,), specs=(model.view_spec,)))
        decoded = time.process_time()
        answers = model.encode(list(subject.views[model.view_spec]))
        vectors = [answer.vector for answer in answers if isinstance(answer, Encoded)]
        if model.classify is not None:
            model.classify(np.stack(vectors))
        decode_s.append(decoded - began)
        model_s.append(time.process_time() - decoded)
    return {
        "model_ms": 1000 * statistics.median(model_s[WARM:] or model_s),
        "decode_ms": 1000 * statistics.median(decode_s[WARM:] or decode_s),
        "disk_mib": _disk_mib(bundle),
        "memory_mib": _largest_mib(),
    }


def _disk_mib(directory: Path) -> float:
    """Of the bundle and of the encoders that it names elsewhere."""
    from triage.inference.bundle import load_bundle

    bundle = load_bundle(directory, check_encoder=False)
    manifest = bundle.manifest
    places = {directory.resolve()}
    for reference in (manifest.encoder, *manifest.features.experts):
        place = bundle.encoder_place(reference).resolve()
        if not place.is_relative_to(directory.resolve()):
            places.add(place)
    files = [path for place in places for path in place.rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in files) / MIB


def _largest_mib() -> float:
    for line in Path("/proc/self/status").read_text("utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return float("nan")


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    main(Path(sys.argv[1]), [Path(word) for word in sys.argv[2:]])
