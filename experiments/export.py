"""Use the trained networks of a run: export their weights with the preprocessing, and classify new images."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import safetensors.torch
import torch
from PIL import Image
from torch import Tensor, nn

from inarch.experiments.export_code import data_report, is_of_images, loading_code, preprocessing_of
from inarch.experiments.saved_runs import open_run
from inarch.population.config import FusionConfig, ModelConfig, from_dict
from inarch.population.data import preprocess
from inarch.population.data.reading.folders import is_hidden, is_image
from inarch.population.errors import CheckpointError, ConfigError, DataError
from inarch.population.evaluation.deployment import DeployOption, deployment_of
from inarch.population.evaluation.metrics import Metric, rank
from inarch.population.evaluation.soups import soup, with_statistics
from inarch.population.extension.trusted_code import remember_code
from inarch.population.fusion import compact_state
from inarch.population.models import ModelFactory, build, give_logits, import_factory
from inarch.population.persistence.checkpoint import CheckpointStore
from inarch.population.persistence.paths import absolute, joined, parent_and_name
from inarch.population.persistence.storage import Storage
from inarch.population.state.state_dict import load_tensors, named_tensors
from inarch.population.tasks.built_in import task_of
from inarch.population.tasks.chosen_weights import chosen_weights, population_of
from inarch.population.tasks.named_code import check_config_trusted
from inarch.population.tasks.run_folder import find_run, read_config, read_result

What = Literal["best", "soup", "recommended"]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The classes that a network predicts for one image."""

    file: str
    classes: tuple[tuple[str, float], ...] = ()
    """Names and probabilities of the classes, the likeliest first. Empty if the image cannot be read."""
    error: str = ""
    """Why the image cannot be read. Empty if it can."""


def export_network(path: str, *, what: What, out: str | None = None, trust: bool = False) -> tuple[str, str]:
    """Write the best network or the soup of a run as a safetensors file.

    The metadata of the file describe the architecture and the preprocessing of images. The batch norm statistics of a
    soup are measured anew on training images. If the run was started with a callable, the model cannot be built here,
    and the statistics are means over the networks as well.

    Args:
        path: Folder of the run.
        what: best: the network with the best validation score. soup: the mean of all networks' weights. recommended:
            what result.json recommends to deploy.
        out: Path or URI of the file to write. None: export/WHAT.safetensors in the run's folder.
        trust: Whether code that the folder names may be imported from the working directory.

    Returns:
        The path of the file, and Python code that loads and applies it with PyTorch, torchvision and safetensors.

    Raises:
        CheckpointError: No network left a checkpoint, or one of the recommended soup's networks has none any more.
        ConfigError: The run was started with a callable, and either its networks are compact or the soup needs their
            channels matched. Or `what` is recommended, and nothing is recommended, or the ensemble.
        UntrustedError: The soup or the compact form needs code of the working directory that the folder names and the
            user has never named, and `trust` is false.
    """
    storage = find_run(path)
    recorded = read_config(storage)
    state, details = _weights(storage, path, recorded, what, None, trust=trust)
    fusion: FusionConfig = from_dict(FusionConfig, recorded["config"].get("fusion", {}))
    if fusion.mode != "off":
        check_config_trusted(_model_name(recorded), storage, trust=trust)
        state = _compact(state, recorded, fusion)
    metadata = {"run": str(recorded["config"]["name"]), "task": str(recorded["config"]["task"]), **details}
    if is_of_images(recorded):
        facts = recorded["info"]["facts"]
        metadata |= {
            "architecture": recorded["model"],
            "num_classes": str(facts["num_classes"]),
            "in_channels": str(facts["image_shape"][0]),
            **preprocessing_of(recorded),
        }
    in_default_order = {name: tensor.contiguous() for name, tensor in state.items()}  # the format knows no other
    content = safetensors.torch.save(in_default_order, metadata=metadata)
    if out is None:
        storage.write(f"export/{what}.safetensors", content)
        file = joined(storage.uri, f"export/{what}.safetensors")
    else:
        folder, name = parent_and_name(out)
        Storage(folder).write(name, content)
        file = absolute(out)
    return file, loading_code(file, recorded)


@torch.no_grad()
def predict_images(
    path: str,
    images: Sequence[str],
    *,
    what: What = "best",
    top: int = 3,
    model: ModelFactory | str | None = None,
    trust: bool = False,
) -> Iterator[Prediction]:
    """Classify images with the best network or the soup of a run.

    Args:
        path: Folder of the run.
        images: Image files, and folders of which every image is classified.
        what: best: the network with the best validation score. soup: the mean of all networks' weights. recommended:
            what result.json recommends to deploy.
        top: Number of classes in each prediction.
        model: The model factory that the run was started with, or its module:function, if it was a callable.
        trust: Whether code that the folder names may be imported from the working directory.

    Yields:
        One prediction per image. An image that cannot be read yields a prediction with an error.

    Raises:
        ConfigError: The run was started with a callable and `model` is None, there are no images, or the networks of
            the run do not classify images. Or `top` is below 1.
        CheckpointError: No network left a checkpoint.
        UntrustedError: As `open_run`.
    """
    if top < 1:
        raise ConfigError(f"top must be at least 1, got {top}")
    if isinstance(model, str):
        remember_code([model])
    factory = import_factory(model, "--model") if isinstance(model, str) else model
    recorded = read_config(find_run(path))
    report = data_report(recorded)
    if report is None:
        raise ConfigError(f"predict classifies images; the run at {path} has the task {recorded['config']['task']!r}")
    storage, _, recorded = open_run(path, factory, trust=trust)
    files = [file for name in images for file in _files(name)]
    if not files:
        raise ConfigError("there are no images to classify; name image files, or a folder that holds some")
    state, _ = _weights(storage, path, recorded, what, factory, trust=trust)
    module = _build(recorded, factory)
    load_tensors(module, state)
    module.eval()
    for file in files:
        try:
            with Image.open(file) as picture:
                pixels = preprocess(picture, report, name=file)
        except (DataError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            message = str(error) if isinstance(error, DataError) else f"cannot be read as an image: {error}"
            yield Prediction(file=file, error=message)
            continue
        probabilities = module(pixels[None]).float().softmax(1)[0]
        ranked = probabilities.topk(min(top, len(report.class_names)))
        names = [report.class_names[index] for index in ranked.indices.tolist()]
        yield Prediction(file=file, classes=tuple(zip(names, ranked.values.tolist(), strict=True)))


def _files(name: str) -> list[str]:
    if not os.path.isdir(name):
        return [name]
    paths = (os.path.join(folder, file) for folder, _, files in os.walk(name, followlinks=True) for file in files)
    return sorted(path for path in paths if is_image(path) and not is_hidden(os.path.relpath(path, name)))


def _weights(
    storage: Storage, path: str, recorded: dict[str, Any], what: What, factory: ModelFactory | None, *, trust: bool
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the weights of the best network or of the soup, and their metadata."""
    store = CheckpointStore(storage)
    result = read_result(storage)
    networks = population_of(chosen_weights(store, result), result)
    if not networks:
        raise CheckpointError(f"no network of the run at {storage.uri} left a checkpoint")
    ids, title = list(networks), what
    if what == "recommended":
        option = recommended_option(storage)
        ids, title = list(option.networks), option.title
    elif what == "best":
        ids = [max(networks, key=lambda network_id: rank(networks[network_id].score, network_id))]
    missing = [network_id for network_id in ids if network_id not in networks]
    if missing:
        raise CheckpointError(f"the {title} has no checkpoint of network {missing[0]} any more")
    if len(ids) > 1 or what == "soup":
        return _soup([dict(networks[key].state) for key in ids], path, recorded, factory, trust=trust), {"what": title}
    best_id = ids[0]
    state, score = dict(networks[best_id].state), networks[best_id].score
    primary = Metric(**recorded["info"]["metrics"][0])
    measured = {} if score is None else {f"validation_{primary.name}": str(primary.score(score))}
    return state, {"what": f"network {best_id}", **measured}


def recommended_option(storage: Storage) -> DeployOption:
    """Return the network or soup that the result of a run recommends to deploy.

    Args:
        storage: The run's folder.

    Raises:
        ConfigError: The run has no result, it recommends nothing, or it recommends the ensemble.
    """
    result = read_result(storage)
    deployment = None if result is None else deployment_of(result)
    if deployment is None:
        raise ConfigError(
            f"what=recommended: the run at {storage.uri} has no result that recommends anything; finish the run, or "
            "give best or soup"
        )
    if deployment.choice is None:
        raise ConfigError(f"what=recommended: {deployment.reason}; give best or soup")
    if deployment.choice.forward_passes > 1:
        raise ConfigError(
            f"what=recommended: the {deployment.choice.title} is recommended, which is no single network; give best "
            "or soup for one network"
        )
    return deployment.choice


def _soup(
    states: list[dict[str, Tensor]], path: str, recorded: dict[str, Any], factory: ModelFactory | None, *, trust: bool
) -> dict[str, Tensor]:
    """Return the mean of several networks' weights, with batch norm statistics measured anew."""
    if recorded["config"]["task"] == "callable" or (recorded["model"] == "callable" and factory is None):
        if recorded["config"]["graft"]["channel_matching"] != "none":
            raise ConfigError(
                "this run was started with a callable, and without its model the channels of the networks cannot be "
                "matched; with the model, use in_common_order of population.grafting.weight_matching and soup of "
                "population.evaluation.soups"
            )
        return soup(states)
    _, spec, _ = open_run(path, factory, trust=trust)
    run_task = task_of(spec)
    task = run_task.bind(spec.config, run_task.load_data(spec.config), model=factory, begins_trained=False)
    module = task.build(0)
    load_tensors(module, soup(task.align_states(states)))
    measured = with_statistics(module, task.batch_norm_inputs())
    return {name: tensor.clone() for name, tensor in named_tensors(measured).items()}


def _build(recorded: dict[str, Any], factory: ModelFactory | None) -> nn.Module:
    """Build the model of a run with initial weights."""
    config, info = recorded["config"], recorded["info"]["facts"]
    model: ModelConfig = from_dict(ModelConfig, config["model"] | {"weights": None})
    channels, height, width = info["image_shape"]
    module = build(
        factory or model,
        num_classes=info["num_classes"],
        in_channels=channels,
        image_shape=(channels, height, width),
        seed=0,
        fusion=from_dict(FusionConfig, config.get("fusion", {})),
    )
    give_logits(module)
    return module


def _compact(state: dict[str, Tensor], recorded: dict[str, Any], fusion: FusionConfig) -> dict[str, Tensor]:
    """Return the compact form of weights that were trained with all filters.

    Args:
        state: Weights with all filters.
        recorded: Content of config.json.
        fusion: Fusion of the run.

    Raises:
        ConfigError: The run was started with a callable.
    """
    if recorded["model"] == "callable":
        raise ConfigError(
            "this run was started with a callable; population.fusion.compact_state(module) returns its compact form"
        )
    module = _build(recorded, None)
    load_tensors(module, state)
    return compact_state(module)


def _model_name(recorded: dict[str, Any]) -> dict[str, str]:
    """Return the name of a run's model, by its field."""
    return {"model.architecture": str(recorded["config"]["model"]["architecture"])}
