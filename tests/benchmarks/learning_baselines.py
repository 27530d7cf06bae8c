"""Three plain classifiers without an encoder: what any table of methods has to be held against.

Logistic regression on downsampled pixels, histograms of oriented gradients (Dalal and Triggs, 2005)
with a support vector machine, and a small convolutional network from scratch. They look at the
views that the encoders look at, and are chosen by the AUROC or the loss on the validation split.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.measuring import say
from triage.inference.calibration import sigmoid
from triage.learning.judging.operating_points import OperatingPoint, Refusal, threshold_for
from triage.learning.judging.statistics import auroc

Views = NDArray[np.float32]  # (N, S, S)
Scores = NDArray[np.float64]
BLOCK_PX: Final = 4  # of 112: pixels of 28 x 28 go into the logistic regression
CELL_PX: Final = 8
ANGLES: Final = 9
CLIP: Final = 0.2
HALF: Final = 0.5  # where no threshold is supported
STRENGTHS: Final = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
CHANNELS: Final = (16, 32, 64, 128)
EPOCHS, PATIENCE, STEP, RATE, DECAY = 60, 8, 32, 1e-3, 1e-2


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Views of one split with their truth and their patients."""

    views: Views
    truth: NDArray[np.bool_]
    groups: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plain:
    """One baseline: its scores (0..1) of the test split, by seed, and the point from val."""

    name: str
    scores: tuple[Scores, ...]
    threshold: float
    refusal: str
    validation_auroc: float
    training_s: float  # processor time of one fit


Fit = Callable[[Split, Split, Views, int], tuple[Scores, Scores]]  # scores of val and of test


def baselines(train: Split, val: Split, test: Views, *, seeds: tuple[int, ...]) -> list[Plain]:
    """Fit all three; only the network depends on a seed."""
    return [
        _plain("pixels, logistic", _pixels, (train, val, test), seeds[:1]),
        _plain("HOG, SVM", _gradients, (train, val, test), seeds[:1]),
        _plain("small CNN", _network, (train, val, test), seeds),
    ]


def _plain(
    name: str, fit: Fit, material: tuple[Split, Split, Views], seeds: tuple[int, ...]
) -> Plain:
    say(f"  {name}")
    began = time.process_time()
    told = [fit(*material, seed) for seed in seeds]
    val = material[1]
    point = threshold_for(val.truth, told[0][0], val.groups)
    return Plain(
        name=name,
        scores=tuple(test for _, test in told),
        threshold=point.threshold if isinstance(point, OperatingPoint) else HALF,
        refusal=point.reason if isinstance(point, Refusal) else "",
        validation_auroc=auroc(val.truth, told[0][0]),
        training_s=(time.process_time() - began) / len(seeds),
    )


# --- on features


def _pixels(train: Split, val: Split, test: Views, _seed: int) -> tuple[Scores, Scores]:
    from sklearn.linear_model import LogisticRegression

    return _best(
        [partial(LogisticRegression, C=c, max_iter=1000) for c in STRENGTHS],
        (shrunk(train.views), train.truth),
        (shrunk(val.views), val.truth),
        shrunk(test),
    )


def _gradients(train: Split, val: Split, test: Views, _seed: int) -> tuple[Scores, Scores]:
    from sklearn.svm import SVC

    return _best(
        [partial(SVC, C=c, kernel=kernel) for c in STRENGTHS for kernel in ("linear", "rbf")],
        (oriented_gradients(train.views), train.truth),
        (oriented_gradients(val.views), val.truth),
        oriented_gradients(test),
    )


def _best(
    makers: list[Any],
    train: tuple[NDArray[Any], NDArray[np.bool_]],
    val: tuple[NDArray[Any], NDArray[np.bool_]],
    test: NDArray[Any],
) -> tuple[Scores, Scores]:
    """Scores of val and test by the classifier with the highest AUROC on val, the simplest first.

    Scores are the sigmoid of its margin: in order, but no probabilities.
    """
    mean, scale = train[0].mean(axis=0), train[0].std(axis=0) + 1e-6
    best, found = -1.0, None
    for make in makers:
        model = make().fit((train[0] - mean) / scale, train[1])
        said = sigmoid(np.asarray(model.decision_function((val[0] - mean) / scale), np.float64))
        if (area := auroc(val[1], said)) > best:
            tested = model.decision_function((test - mean) / scale)
            best, found = area, (said, sigmoid(np.asarray(tested, np.float64)))
    if found is None:
        raise RuntimeError("no classifier could be chosen")
    return found


def shrunk(views: Views) -> NDArray[np.float64]:
    """Mean over blocks of pixels, (N, D)."""
    count, side = len(views), views.shape[1] // BLOCK_PX
    blocks = views.reshape(count, side, BLOCK_PX, side, BLOCK_PX).mean(axis=(2, 4))
    return np.asarray(blocks.reshape(count, -1), np.float64)


def oriented_gradients(views: Views) -> NDArray[np.float64]:
    """Histograms of unsigned directions in cells, of four neighbours normalised, (N, D)."""
    down, right = np.gradient(views.astype(np.float64), axis=(1, 2))
    strength = np.hypot(down, right)
    place = np.mod(np.arctan2(down, right), np.pi) / np.pi * ANGLES - 0.5
    low = np.floor(place)
    share = place - low
    count, side = len(views), views.shape[1] // CELL_PX
    cells = np.zeros((count, side, side, ANGLES))
    for angle in range(ANGLES):
        weight = strength * (
            (np.mod(low, ANGLES) == angle) * (1 - share)
            + (np.mod(low + 1, ANGLES) == angle) * share
        )
        cells[..., angle] = weight.reshape(count, side, CELL_PX, side, CELL_PX).sum(axis=(2, 4))
    blocks = np.concatenate(
        [cells[:, :-1, :-1], cells[:, :-1, 1:], cells[:, 1:, :-1], cells[:, 1:, 1:]], axis=-1
    )
    for _ in range(2):  # normalise, clip, normalise again
        blocks /= np.sqrt((blocks**2).sum(axis=-1, keepdims=True)) + 1e-6
        blocks = np.minimum(blocks, CLIP)
    return np.asarray(blocks.reshape(count, -1), np.float64)


# --- a network


def _network(train: Split, val: Split, test: Views, seed: int) -> tuple[Scores, Scores]:
    """Adam with early stopping on the loss of the validation split; no augmentation."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    network = _layers()
    optimiser = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
    loss = nn.BCEWithLogitsLoss()
    pictures = torch.from_numpy(train.views[:, None])
    truth = torch.from_numpy(train.truth.astype(np.float32))
    wanted = torch.from_numpy(val.truth.astype(np.float32))
    best, waited, kept = float("inf"), 0, (np.empty(0), np.empty(0))
    for _ in range(EPOCHS):
        network.train()
        for rows in torch.split(torch.randperm(len(truth)), STEP):
            optimiser.zero_grad()
            loss(network(pictures[rows])[:, 0], truth[rows]).backward()
            optimiser.step()
        said = _forward(network, val.views)
        reached = float(loss(torch.from_numpy(said), wanted.double()))
        if reached < best:
            best, waited, kept = reached, 0, (said, _forward(network, test))
        elif (waited := waited + 1) == PATIENCE:
            break
    return sigmoid(kept[0]), sigmoid(kept[1])


def _layers() -> Any:
    from torch import nn

    layers: list[nn.Module] = []
    before = 1
    for width in CHANNELS:
        layers += [nn.Conv2d(before, width, 3, stride=2, padding=1), nn.BatchNorm2d(width)]
        layers += [nn.ReLU()]
        before = width
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 1)]
    return nn.Sequential(*layers, *pool)


def _forward(network: Any, views: Views) -> Scores:
    import torch

    network.eval()
    with torch.no_grad():
        said = [network(part[:, None])[:, 0] for part in torch.split(torch.from_numpy(views), 256)]
    return np.asarray(torch.cat(said).numpy(), np.float64)
