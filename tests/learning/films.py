"""Small pictures with and without a bright disc, their labels, and a text-reading encoder twin."""

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.inference import twins
from triage.learning.material.label_columns import Asked
from triage.learning.material.label_reading import read_labels
from triage.learning.material.labels import LabelTable
from triage.learning.methods import METHODS
from triage.learning.methods.material import Choices, Material, Trained
from triage.pocket import BUNDLE
from triage.pocket.model import build_tokenizer
from triage.records import ViewSpec

POCKET = BUNDLE / "encoder"
VIEW = ViewSpec(rendering="dicom", size_px=112)
QUICK = Choices(
    l2=(0.03, 0.3),
    folds=2,
    epochs=3,
    patience=2,
    batch_size=8,
    hidden=(16, 8),
    queries=2,
    query_width=8,
    maximum_new_tokens=8,
)
FINDINGS = ("disc", "other")
COUNTS = {"train": 24, "val": 12, "test": 4}


def film(number: int, *, shows: bool) -> NDArray[np.uint8]:
    """A soft field with texture; with a disc somewhere where `shows`."""
    random = np.random.default_rng([7, number])
    y, x = np.mgrid[0:128, 0:112] / 128
    grey = 0.3 + 0.2 * np.sin(3 * x + number) * y + 0.05 * random.standard_normal((128, 112))
    if shows:
        row, column = random.uniform(0.3, 0.7, 2)
        grey += 0.35 * (np.hypot(y - row, x - column) < 0.12)
    return np.asarray(np.clip(grey, 0, 1) * 255, np.uint8)


def write_films(folder: Path, *, seed: int = 0) -> Path:
    """Forty pictures with `labels.csv` beside them: finding `disc`, `other` mostly blank."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, number = [], seed
    for split, count in COUNTS.items():
        for i in range(count):
            shows = i % 2 == 0
            name = f"{split}-{i:02}.png"
            Image.fromarray(film(number, shows=shows)).save(folder / name)
            other = str(int(i % 3 == 0)) if i % 2 else ""
            rows.append([name, f"p{number // 2}-{split}", split, str(int(shows)), other])
            number += 1
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file", "patient_group", "split", "disc", "other"], *rows])
    return folder


def table_of(folder: Path) -> LabelTable:
    return read_labels(folder / "labels.csv", Asked(findings=FINDINGS))


def material_of(
    folder: Path, work: Path, *, encoders: tuple[Path, ...] = (POCKET,), size_px: int = 112
) -> Material:
    """What a method is given, divided as the labels say."""
    table = table_of(folder)
    splits = {
        split: [i for i, row in enumerate(table.rows) if row.split == split] for split in COUNTS
    }
    work.mkdir(parents=True, exist_ok=True)
    return Material(
        table=table,
        images=folder,
        encoders=encoders,
        view=ViewSpec(rendering="dicom", size_px=size_px),
        splits=splits,
        work=work,
        device="cpu",
        dtype="float32",
        batch_size=8,
    )


def fit(method: str, material: Material, choices: Choices = QUICK) -> Trained:
    return METHODS[method].fit(material, choices)


def text_reader(directory: Path) -> Path:
    """A MedSigLIP twin with a tokenizer that needs no further package."""
    import json

    import torch
    from transformers import SiglipConfig, SiglipModel

    tokenizer = build_tokenizer()
    torch.manual_seed(6)
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "projection_size": 48,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=twins.VISION))
    for name, weight in model.named_parameters():
        if "logit" not in name:
            torch.nn.init.normal_(weight, std=0.2)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    settings = {**twins.PREPROCESSOR, "image_processor_type": "SiglipImageProcessor"}
    (directory / "preprocessor_config.json").write_text(json.dumps(settings))
    return directory
