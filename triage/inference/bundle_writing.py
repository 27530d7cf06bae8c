"""Put a bundle on the disk: whole and synced before it has its name, or not at all.

Files come first and `bundle.json` last and at once, so a directory without it is no bundle yet.
What stands in the files is made in `bundle_making`.
"""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO

from triage.errors import BundleError
from triage.inference.bundle import Bundle, load_bundle
from triage.inference.bundle_fields import EncoderReference, Manifest, write_manifest
from triage.inference.bundle_parts import MANIFEST
from triage.store import sync_directory


@contextmanager
def aside(out: Path) -> Iterator[Path]:
    """Give a directory beside `out` that takes its place at the end, else is gone.

    What a crash leaves of it has a name that no configuration names.
    """
    if out.is_dir() and any(out.iterdir()):
        raise BundleError(f"{out} holds other files", hint="Choose an empty directory.")
    draft = out.with_name(f".{out.name}.{secrets.token_hex(4)}.part")
    draft.mkdir(parents=True)
    try:
        yield draft
        draft.rename(out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)  # gone already where it took its place
    sync_directory(out.parent)


def carry(bundle: Bundle, reference: EncoderReference, out: Path) -> None:
    """Copy an encoder that lies inside the bundle; one that lies elsewhere stays where it is."""
    if Path(reference.path).is_absolute():
        return
    place = out / reference.path
    place.mkdir(parents=True, exist_ok=True)
    for name in reference.files:
        with (
            (bundle.encoder_place(reference) / name).open("rb") as source,
            _new(place / name) as new,
        ):
            shutil.copyfileobj(source, new)
    for directory in (place, *place.relative_to(out).parents):
        sync_directory(out / directory)


def write(out: Path, manifest: Manifest, parts: Mapping[str, bytes]) -> Bundle:
    """Write all files, `bundle.json` last and at once, and read them as what serves will.

    What cannot be read so is left without `bundle.json`, hence no bundle.
    """
    digests = {file: hashlib.sha256(data).hexdigest() for file, data in sorted(parts.items())}
    document = write_manifest(replace(manifest, files=digests))
    text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    part = f"{MANIFEST}.part"
    for file, data in {**parts, part: text.encode()}.items():
        with _new(out / file) as new:
            new.write(data)
    (out / part).replace(out / MANIFEST)
    sync_directory(out)
    try:
        return load_bundle(out)
    except BundleError:
        (out / MANIFEST).unlink()
        raise


@contextmanager
def _new(path: Path) -> Iterator[IO[bytes]]:
    """Write a file from its beginning; synced at the end of the block."""
    with path.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
