"""Write a trained vision tower back into an encoder directory, in the layout that it came in.

File names, key names and shards stay as they were; the tensors that training changed are written
in float32, everything else as it was read, bytes of text files included. So whatever loads the
source loads the copy.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from triage.errors import BundleError
from triage.inference.bundle import encoder_files
from triage.inference.weights import TOWER


def write_encoder(source: Path, changed: Mapping[str, Tensor], out: Path) -> Path:
    """Copy the directory `source` to `out` with the tensors of `changed` in it.

    These are named as in SiglipVisionModel. Raises BundleError where one has no place.
    """
    out.mkdir(parents=True)
    left = set(changed)
    for name, path in encoder_files(source).items():
        if path.suffix == ".safetensors":
            left -= _write_shard(path, changed, out / name)
        else:
            shutil.copyfile(path, out / name)
    if left:
        raise BundleError(f"the weights in {source} have no place for {min(left)}")
    return out


def _write_shard(path: Path, changed: Mapping[str, Tensor], out: Path) -> set[str]:
    """Write one file; gives the names of the changed tensors in it."""
    tensors, found = {}, set()
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            for key in file.keys():  # noqa: SIM118  # the reader is no mapping
                prefix = TOWER.match(key)
                name = key[prefix.end() :] if prefix else ""
                if name in changed:
                    found.add(name)
                    tensors[key] = changed[name].detach().to("cpu", torch.float32).contiguous()
                else:
                    tensors[key] = file.get_tensor(key)
    except (SafetensorError, OSError) as error:
        raise BundleError(f"{path} cannot be read as safetensors") from error
    save_file(tensors, out, metadata=metadata)
    out.chmod(0o644)  # safetensors writes for its owner alone
    return found
