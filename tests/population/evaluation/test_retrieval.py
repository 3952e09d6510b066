"""Retrieval: mAP and CMC against hand-made values and torchmetrics, query and gallery data, complete runs."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import nn
from torchmetrics.retrieval import RetrievalHitRate, RetrievalMAP

from inarch.population import (
    DataConfig,
    ModelConfig,
    RunConfig,
    ScheduleConfig,
)
from inarch.population.data import load_splits, open_images
from inarch.population.data.loading import limited
from inarch.population.errors import ConfigError, DataError
from inarch.population.evaluation.retrieval import (
    RetrievalEvaluator,
    all_vs_all,
    embeddings,
    query_and_gallery,
    retrieval_scores,
)
from inarch.population.models import build
from inarch.population.tasks.image_classification import ImageClassification
from inarch.population.tasks.image_task import run_splits

"""Folder with subsets of CIFAR-100 for one slow test. The subsets are not part of the repository."""


def on_circle(*degrees: float) -> torch.Tensor:
    """Return unit vectors at the given angles. Closer angles mean more similar vectors."""
    angles = torch.deg2rad(torch.tensor(degrees))
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def test_retrieval_scores_match_values_by_hand() -> None:
    """The query has class 0. If the ranked classes are 0 1 0 1, AP = (1/1 + 2/3) / 2. If they are 1 1 0 1, AP = 1/3."""
    vectors, labels = on_circle(0, 10, 20, 30, 40), torch.tensor([0, 0, 1, 0, 1])
    scores = retrieval_scores(vectors, labels, query_and_gallery(1, 4))
    assert scores.mean_average_precision == pytest.approx((1 + 2 / 3) / 2)
    assert (scores.accuracy, scores.top5, scores.examples) == (1.0, 1.0, 1)
    labels = torch.tensor([0, 1, 1, 0, 1])
    scores = retrieval_scores(vectors, labels, query_and_gallery(1, 4))
    assert scores.mean_average_precision == pytest.approx(1 / 3) == scores.score
    assert (scores.accuracy, scores.top5) == (0.0, 1.0)


def test_all_vs_all_skips_self_matches_and_unmatched_queries() -> None:
    scores = retrieval_scores(on_circle(0, 5, 90, 170), torch.tensor([0, 0, 1, 2]), all_vs_all(4))
    assert (scores.examples, scores.accuracy, scores.mean_average_precision) == (2, 1.0, 1.0)
    with pytest.raises(DataError, match="no query has"):
        retrieval_scores(on_circle(0, 5), torch.tensor([0, 1]), all_vs_all(2))


def test_retrieval_scores_ignore_matches_of_the_same_camera() -> None:
    """Without cameras the nearest image is a match. With cameras it is excluded, and the next has another class."""
    vectors, labels = on_circle(0, 5, 10, 20), torch.tensor([0, 0, 1, 0])
    cameras = torch.tensor([1, 1, 1, 2])
    assert retrieval_scores(vectors, labels, query_and_gallery(1, 3)).accuracy == 1.0
    with_cameras = retrieval_scores(vectors, labels, query_and_gallery(1, 3, cameras))
    assert (with_cameras.accuracy, with_cameras.mean_average_precision) == (0.0, 0.5)


@pytest.mark.parametrize("num_queries", [0, 700])
def test_retrieval_scores_equal_those_of_torchmetrics(num_queries: int) -> None:
    """There are more queries than fit into one chunk of the ranking."""
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 12, (900,), generator=random)
    vectors = nn.functional.normalize(
        torch.randn(900, 8, generator=random) + 2 * torch.randn(12, 8, generator=random)[labels], dim=1
    )
    roles = query_and_gallery(num_queries, 900 - num_queries) if num_queries else all_vs_all(900)
    queries, gallery = roles.queries.nonzero()[:, 0], roles.gallery.nonzero()[:, 0]
    rows, columns = torch.cartesian_prod(queries, gallery).T
    rows, columns = rows[rows != columns], columns[rows != columns]
    similarity, is_match = (vectors[rows] * vectors[columns]).sum(1), labels[rows] == labels[columns]
    similarity = similarity + 2  # torchmetrics counts a similarity of 0 or less as a miss
    scores = retrieval_scores(vectors, labels, roles)
    assert scores.mean_average_precision == pytest.approx(float(RetrievalMAP()(similarity, is_match, rows)), abs=1e-5)
    assert scores.accuracy == pytest.approx(float(RetrievalHitRate(top_k=1)(similarity, is_match, rows)), abs=1e-6)
    assert scores.top5 == pytest.approx(float(RetrievalHitRate(top_k=5)(similarity, is_match, rows)), abs=1e-6)


@pytest.mark.parametrize("architecture", ["resnet8", "mobilenetv2", "torchvision:resnet18", "torchvision:vgg11"])
def test_embeddings_are_the_normalized_classifier_inputs(architecture: str) -> None:
    model = build(ModelConfig(architecture=architecture), num_classes=7, seed=0).eval()
    size = 32 if ":" not in architecture else 64
    images, labels = torch.randn(3, 3, size, size), torch.tensor([0, 1, 2])
    vectors, _ = embeddings(model, [(images, labels)])
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    assert vectors.shape == (3, last.in_features) and vectors.norm(dim=1) == pytest.approx(1.0)
    with torch.no_grad():
        logits, scale = model(images) - last.bias, vectors @ last.weight.T
    assert torch.nn.functional.cosine_similarity(logits, scale).min() > 0.999
    assert not last._forward_pre_hooks


def test_embeddings_of_a_model_without_linear_layer_raise() -> None:
    with pytest.raises(ConfigError, match="last linear layer"):
        embeddings(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten()), [(torch.zeros(1, 3, 2, 2), torch.zeros(1))])
    pixelwise = nn.Sequential(nn.Flatten(2), nn.Linear(4, 4), nn.Flatten())
    with pytest.raises(ConfigError, match="one row for each of 1 images"):
        embeddings(pixelwise, [(torch.zeros(1, 3, 2, 2), torch.zeros(1))])


def test_retrieval_ensemble_averages_the_similarities() -> None:
    vectors, other_vectors = on_circle(0, 30, 80), on_circle(0, 60, 10)
    together = RetrievalEvaluator(all_vs_all(3)).ensemble([vectors, other_vectors])
    torch.testing.assert_close(together @ together.T / 2, (vectors @ vectors.T + other_vectors @ other_vectors.T) / 2)
    predictions = [
        RetrievalEvaluator(all_vs_all(3)).predictions(each, torch.zeros(3)).tolist()
        for each in (vectors, other_vectors)
    ]
    assert predictions == [[1, 0, 1], [2, 2, 0]]


def write_people(folder: Path, files: dict[str, int]) -> str:
    folder.mkdir(parents=True)
    for name, gray in files.items():
        Image.fromarray(np.full((16, 8, 3), gray, np.uint8)).save(folder / f"{name}.jpg")
    return str(folder)


def test_market_1501_folders_are_read_with_cameras(tmp_path: Path) -> None:
    train = write_people(tmp_path / "train", {f"000{n}_c{c}s1_0001": 20 * n + c for n in (2, 7) for c in (1, 2, 3)})
    gallery = write_people(
        tmp_path / "gallery", {"-1_c1s1_1": 9, "0000_c1s1_1": 50, "0011_c1s1_2": 60, "0012_c2s1_3": 70}
    )
    query = write_people(tmp_path / "query", {"0012_c1s1_9": 71, "0011_c1s1_9": 61})
    data = DataConfig(train=train, test=gallery, query=query, image_size=(12, 6), validation=0.0)
    splits = load_splits(data, seed=0, same_classes=False)
    assert splits.image_shape == (3, 12, 6) and splits.num_classes == 2
    gallery_images = open_images(gallery, split="test")
    assert gallery_images.class_names == ("0000", "0011", "0012") and gallery_images.labels.tolist() == [0, 1, 2]
    query_batches = splits.batches("query", "cpu")
    assert query_batches is not None
    assert next(query_batches.in_order(batch_size=9))[1].tolist() == [1, 2]
    assert [splits.cameras(part) is not None for part in ("query", "test")] == [True, True]
    part = ImageClassification(RunConfig(task="retrieval", data=data), splits).part("test")
    assert part is not None and isinstance(part.evaluator, RetrievalEvaluator)
    assert part.evaluator.roles.queries.tolist() == [True, True, False, False, False]
    assert part.evaluator.roles.cameras is not None and part.evaluator.roles.cameras.tolist() == [1, 1, 1, 1, 2]


def test_check_refuses_queries_without_a_matching_image(tmp_path: Path) -> None:
    """Each identity has two images. Validation holds at most one of them, so no validation query has a match."""
    train = write_people(tmp_path / "train", {f"000{n}_c{c}s1_1": 9 * n + c for n in range(1, 9) for c in (1, 2)})
    gallery = write_people(tmp_path / "gallery", {"0011_c1s1_2": 60, "0012_c2s1_3": 70})
    data = {"train": train, "test": gallery, "query": gallery, "validation": 0.0, "augmentation": "none"}

    def check(**changes) -> None:
        config = RunConfig(
            task="retrieval",
            model=ModelConfig(architecture="resnet8"),
            data=DataConfig(**(data | changes)),
            schedule=ScheduleConfig(batch_size=4),
        )
        task = ImageClassification(config, run_splits(config))
        task.check()

    with pytest.raises(ConfigError, match="no test query has a matching gallery image"):
        check()
    seen_by_two = write_people(tmp_path / "query", {"0011_c2s1_5": 61})
    check(query=seen_by_two)
    with pytest.raises(ConfigError, match=r"no validation query has a match.* larger data\.validation"):
        check(query=seen_by_two, validation=0.5)
    with pytest.raises(ConfigError, match="both have cameras"):
        check(query=parquet(tmp_path / "plain.parquet", [0, 1], None, shape=(16, 8, 3)))
    with pytest.raises(DataError, match=r"data\.query='digits' stands for training and test images"):
        check(query="digits")


def test_limited_keeps_images_of_every_camera(tmp_path: Path) -> None:
    people = write_people(tmp_path / "p", {f"00{n}_c{c}s1_{k}": n for n in (11, 12) for c in (1, 2, 3) for k in (1, 2)})
    few = limited(open_images(people, split="test"), 6)
    assert few.cameras is not None and sorted(zip(few.labels.tolist(), few.cameras.tolist(), strict=True)) == [
        (label, camera) for label in (0, 1) for camera in (1, 2, 3)
    ]


def parquet(path: Path, labels: list[int], cameras: list[int] | None, *, shape: tuple[int, ...] = (4, 4)) -> str:
    rows = []
    for label in labels:
        picture = io.BytesIO()
        Image.fromarray(np.full(shape, 10 * label, np.uint8)).save(picture, "PNG")
        rows.append({"bytes": picture.getvalue(), "path": ""})
    known = {} if cameras is None else {"camera": cameras}
    pq.write_table(pa.table({"image": rows, "label": labels, **known}), path)
    return str(path)


def test_retrieval_parquet_has_its_own_cameras_and_classes(tmp_path: Path) -> None:
    train = parquet(tmp_path / "a.parquet", [0, 0, 1, 1], [1, 2, 1, 2])
    test = parquet(tmp_path / "b.parquet", [5, 5, 6], [3, 4, 3])
    data = DataConfig(train=train, test=test, validation=0.0)
    splits = run_splits(RunConfig(task="retrieval", data=data))
    cameras = splits.cameras("test")
    assert cameras is not None and cameras.tolist() == [3, 4, 3] and splits.num_classes == 2
    with pytest.raises(DataError, match="classes that the training images lack: '5', '6'"):
        run_splits(RunConfig(data=data))
    with pytest.raises(ConfigError, match="unless task is retrieval"):
        RunConfig(data=DataConfig(train=train, test=test, query=test))
