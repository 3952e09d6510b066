"""From a run's folder, without a cluster: its networks judged again, its best network exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from actors import RunSpec, find_run
from actors.records import read_members
from actors.tasks import judge
from population.checkpoint import CheckpointStore
from population.config import FusionConfig, NetworkConfig, RunConfig, from_dict
from population.errors import CheckpointError, ConfigError, StructureError
from population.evaluation import soup, with_statistics
from population.fusion import compact_state
from population.judging import agreement, mean_cosine
from population.layers import entries, load_entries
from population.networks import NetworkFactory, build
from population.storage import Storage, absolute, joined
from population.task import ImageClassification, run_splits


def judge_again(path: str, *, network: NetworkFactory | None = None) -> dict[str, Any]:
    """A run's result table, computed anew from its checkpoints, with the networks' similarity over the intervals whose
    checkpoints are kept.

    Args:
        path: The run's folder.
        network: The callable that the run was begun with, where it was one.

    Raises:
        ConfigError: the run was begun with a callable and none is given.
        StructureError: the images are not those that the run was begun with.
    """
    storage, spec, recorded = _open(path, network)
    splits = run_splits(spec.config)
    if splits.fingerprint != recorded["facts"]["data_fingerprint"]:
        raise StructureError(f"{spec.config.data.train!r} has other images now than run {spec.name} was begun with")
    record = read_members(storage) or {"members": []}
    ended = {member["id"]: member["state"] for member in record["members"]}
    seconds = json.loads(storage.read("result.json"))["seconds"] if storage.exists("result.json") else float("nan")
    result = judge(spec, splits, ended, seconds)
    return result | {
        "similarity": similarity_over_time(
            storage, ImageClassification(spec.config, splits, factory=network, begins_trained=False)
        )
    }


@torch.no_grad()
def similarity_over_time(storage: Storage, task: ImageClassification, *, every: int = 1) -> list[dict[str, Any]]:
    """How alike the networks were: agreement on the validation images and cosine of the weights, after the exchange.

    Args:
        storage: The run's folder; `checkpoint.keep` decides how far back its checkpoints go.
        task: The run's, on the CPU.
        every: Of the intervals that all networks saved; the last is among them.

    Returns:
        A row an interval: interval, agreement, cosine; none for one network, or without validation images.
    """
    checkpoints = CheckpointStore(storage)
    saved = {
        network: {found.interval: found for found in checkpoints.list(network) if not found.step}
        for network in checkpoints.networks()
    }
    shared = sorted(set.intersection(*(set(found) for found in saved.values()))) if len(saved) > 1 else []
    validation = task.part("validation")
    if validation is None:
        return []
    module, rows = task.build(0), []
    for interval in shared[::-every][::-1]:
        states = task.comparable([checkpoints.load(network, found[interval]).model for network, found in saved.items()])
        choices = []
        for state in states:
            load_entries(module, state)
            said, labels = validation.measure.outputs(module, validation.batches())
            choices.append(validation.measure.choices(said, labels))
        rows.append({"interval": interval, "agreement": agreement(choices), "cosine": mean_cosine(states)})
    return rows


def export_network(path: str, *, what: str, out: str | None) -> tuple[str, str]:
    """Write the best network or the soup of a run as safetensors. The soup's batch norm is measured anew on training
    images; where the network is a callable that cannot be, and its statistics are means too.

    Returns:
        The file, and Python lines that load it.

    Raises:
        CheckpointError: no network left a checkpoint.
        ConfigError: the run was of compact networks that a callable made, or the soup is of a callable's networks whose
            channels were matched.
    """
    storage = find_run(path)
    recorded = json.loads(storage.read("config.json"))
    store = CheckpointStore(storage)
    found = {network: best for network in store.networks() if (best := store.best(network)) is not None}
    if not found:
        raise CheckpointError(f"no network of the run at {storage.uri} left a checkpoint")
    chosen = max(found, key=lambda network: (found[network][1] or 0.0, -network))
    state = found[chosen][0] if what == "best" else _soup([best[0] for best in found.values()], path, recorded)
    fusion: FusionConfig = from_dict(FusionConfig, recorded["config"].get("fusion", {}))
    if fusion.mode != "off":
        state = _compact(state, recorded, fusion)
    config, facts = recorded["config"], recorded["facts"]
    metadata = {
        "architecture": recorded["network"],
        "num_classes": str(facts["num_classes"]),
        "in_channels": str(facts["image_shape"][0]),
        "what": f"network {chosen}" if what == "best" else "soup",
        "validation_accuracy": str(found[chosen][1]) if what == "best" else "",
        "run": str(config["name"]),
    }
    content = safetensors.torch.save(state, metadata=metadata)
    if out is None:
        storage.write(f"export/{what}.safetensors", content)
        file = joined(storage.uri, f"export/{what}.safetensors")
    else:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        Path(out).write_bytes(content)
        file = absolute(out)
    return file, _snippet(file, recorded)


def _open(path: str, network: NetworkFactory | None) -> tuple[Storage, RunSpec, dict[str, Any]]:
    storage = find_run(path)
    recorded = json.loads(storage.read("config.json"))
    config: RunConfig = from_dict(RunConfig, recorded["config"])
    if recorded["network"] == "callable" and network is None:
        raise ConfigError(
            "this run was begun with a callable; experiments.reports.judge_again(path, network=...) needs it"
        )
    return (
        storage,
        RunSpec(name=str(config.name), folder=storage.uri, config=config, factory=network),
        recorded,
    )


def _soup(states: list[dict[str, Tensor]], path: str, recorded: dict[str, Any]) -> dict[str, Tensor]:
    """The mean of weights, with batch norm statistics of its own."""
    if recorded["network"] == "callable":
        if recorded["config"]["graft"]["alignment"] != "none":
            raise ConfigError(
                "this run was begun with a callable, without which channels cannot be brought into one order; "
                "population.alignment.in_one_order and population.evaluation.soup do it with the module at hand"
            )
        return soup(states)
    _, spec, _ = _open(path, None)
    task = ImageClassification(spec.config, run_splits(spec.config), begins_trained=False)
    module = task.build(0)
    load_entries(module, soup(task.comparable(states)))
    measured = with_statistics(module, task.statistics_images())
    return {name: tensor.clone() for name, tensor in entries(measured).items()}


def _compact(state: dict[str, Tensor], recorded: dict[str, Any], fusion: FusionConfig) -> dict[str, Tensor]:
    """The weights of the compact form of a network that was trained with all its filters.

    Raises:
        ConfigError: the network was a callable.
    """
    if recorded["network"] == "callable":
        raise ConfigError(
            "this run was begun with a callable; population.fusion.compact_state(module) gives its compact form"
        )
    facts = recorded["facts"]
    network: NetworkConfig = from_dict(NetworkConfig, recorded["config"]["network"] | {"weights": None})
    module = build(
        network, num_classes=facts["num_classes"], in_channels=facts["image_shape"][0], seed=0, fusion=fusion
    )
    load_entries(module, state)
    return compact_state(module)


def _snippet(file: str, recorded: dict[str, Any]) -> str:
    facts, network = recorded["facts"], recorded["config"]["network"]
    options = f"num_classes={facts['num_classes']}, in_channels={facts['image_shape'][0]}"
    if recorded["network"] == "callable":
        build = f"network = your_function({options.split(',')[0]})  # the callable that the run was begun with"
        imports = "import safetensors.torch"
    else:
        leaky = ", leaky=True" if network["leaky"] else ""
        fusion = recorded["config"].get("fusion", {"mode": "off"})
        names, compact = "NetworkConfig", ""
        if fusion["mode"] != "off":
            preset = f'preset="{fusion["preset"]}"' if fusion["preset"] else f"rates={tuple(fusion['rates'])}"
            names = "FusionConfig, NetworkConfig"
            compact = f', fusion=FusionConfig(mode="{fusion["mode"]}", {preset}), form="compact"'
        build = f'network = build(NetworkConfig(architecture="{network["architecture"]}"{leaky}), {options}{compact})'
        imports = f"import safetensors.torch\nfrom population import {names}\nfrom population.networks import build"
    return f'{imports}\n\n{build}\nsafetensors.torch.load_model(network, "{file}")\nnetwork.eval()'
