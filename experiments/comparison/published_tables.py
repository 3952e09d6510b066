"""The published tables as comparisons, with the papers' networks, data and schedules. They need GPUs.

A departure from the papers: where a paper compares a population with a single network, the baseline here is a
population of the same size without exchange. Both then do equal work.

Source: Filter Grafting, Meng et al. 2020 (arXiv:2001.05868). Grafting+, Cheng et al. 2020 (arXiv:2004.12311). DCFF, Lin
et al. 2021 (arXiv:2107.06916).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from inarch.experiments import recipes
from inarch.experiments.comparison.arms import ARM, NONE, Arm, Comparison
from inarch.population.config import (
    DataConfig,
    DistillationConfig,
    ExchangeConfig,
    FusionConfig,
    GraftConfig,
    ModelConfig,
    RunConfig,
    ScheduleConfig,
)
from inarch.population.fusion import PRESETS

MOBILE = "mobilenetv2"
SEEDS = (0, 1, 2, 3, 4)
"""Seeds of the tables. The papers report one run of most settings, and five runs of some."""

Recipe = Callable[[str, str], RunConfig]


def _on(config: RunConfig, data: DataConfig, epochs: int | None, **changes) -> RunConfig:
    """Return a recipe's configuration with other data and, unless `epochs` is None, another length."""
    fields = {
        name: getattr(config.data, name) for name in ("augmentation", "padding", "stream", "image_size", "workers")
    }
    fields["validation"] = config.data.validation
    schedule = config.schedule if epochs is None else _lasting(config.schedule, epochs)
    return dataclasses.replace(config, data=dataclasses.replace(data, **fields), schedule=schedule, **changes)


def _lasting(schedule: ScheduleConfig, epochs: int) -> ScheduleConfig:
    """Return a schedule of another length, whose learning rate falls at the same fractions of it."""
    factor = epochs / schedule.epochs
    return dataclasses.replace(
        schedule,
        epochs=epochs,
        step_epochs=max(1, round(schedule.step_epochs * factor)),
        step_at=tuple(dict.fromkeys(max(1, round(at * factor)) for at in schedule.step_at)),
        warmup_epochs=round(schedule.warmup_epochs * factor),
    )


def _population(config: RunConfig, size: int) -> RunConfig:
    return dataclasses.replace(config, population=dataclasses.replace(config.population, size=size))


def _table(name: str, question: str, arms: Sequence[Arm], *, seeds: Sequence[int] = SEEDS) -> Comparison:
    """Return a comparison of arms in lockstep mode, as in the papers. The first arm is the baseline."""
    return Comparison(
        name=name,
        question=question,
        arms=tuple(dataclasses.replace(arm, config=dataclasses.replace(arm.config, mode="lockstep")) for arm in arms),
        baseline=arms[0].name,
        seeds=tuple(seeds),
        does_equal_work=False,
        is_published=True,
        may_reuse=False,
    )


def _methods(architecture: str, base: RunConfig, methods: dict[str, dict]) -> list[Arm]:
    """Return the arms of one architecture: a baseline without exchange, and one arm per method."""
    baseline = f"{architecture}: baseline"
    arms = [Arm(name=baseline, description="no exchange", config=dataclasses.replace(base, exchange=NONE))]
    for method, changes in methods.items():
        config = dataclasses.replace(base, **changes)
        arms.append(Arm(name=f"{architecture}: {method}", description=method, config=config, against=baseline))
    return arms


def _graft(**fields) -> dict:
    return {"graft": GraftConfig(**fields)}


def scion_sources(data: DataConfig, epochs: int | None) -> Comparison:
    """Return the table of scion sources of Filter Grafting (MobileNetV2).

    Args:
        data: Data that the networks train on.
        epochs: Epochs of each network. None: those of the paper.
    """
    base = _on(recipes.paper("cifar10", MOBILE), data, epochs)
    methods = {
        "noise": _graft(scion="noise"),
        "internal": _graft(scion="internal", criterion="l1"),
        "external": _graft(criterion="l1"),
    }
    return _table("paper-table-scions", "Where should a scion come from?", _methods(MOBILE, base, methods))


def criteria(data: DataConfig, epochs: int | None) -> Comparison:
    """Return the table of l1 norm against entropy of Filter Grafting.

    The history of its runs also holds the numbers of invalid filters.

    Args:
        data: Data that the networks train on.
        epochs: Epochs of each network. None: those of the paper.
    """
    arms = []
    for architecture in ("resnet32", "resnet56", "resnet110", MOBILE):
        base = _on(recipes.paper("cifar10", architecture), data, epochs)
        arms += _methods(architecture, base, {"l1": _graft(criterion="l1"), "entropy": {}})
    return _table("paper-table-criteria", "Which criterion is better, l1 norm or entropy?", arms)


def methods(data: DataConfig, epochs: int | None) -> Comparison:
    """Return the table of Filter Grafting against mutual learning, with the same and with spread learning rates.

    Args:
        data: Data that the networks train on.
        epochs: Epochs of each network. None: those of the paper.
    """
    arms = []
    for architecture in ("resnet32", "resnet56", "resnet110", MOBILE, "wrn28-10"):
        base = _on(recipes.paper("cifar10", architecture), data, epochs)
        spread = _on(recipes.paper_diverse("cifar10", architecture), data, epochs)
        changes = {"schedule": spread.schedule, "optimizer": spread.optimizer}
        same_rates = {"mutual learning": {"exchange": ExchangeConfig(rule="dml")}, "grafting, same rates": {}}
        arms += _methods(architecture, base, same_rates)
        arms += _methods(f"{architecture}, spread rates", dataclasses.replace(base, **changes), {"grafting": {}})
    return _table(
        "paper-table-methods", "Is grafting better than mutual learning, and what do spread learning rates add?", arms
    )


def networks(data: DataConfig, epochs: int | None) -> Comparison:
    """Return the table of population sizes of Filter Grafting (MobileNetV2, spread learning rates).

    Each run also evaluates its ensemble.

    Args:
        data: Data that the networks train on.
        epochs: Epochs of each network. None: those of the paper.
    """
    base = _on(recipes.paper_diverse("cifar10", MOBILE), data, epochs)
    arms = []
    for size in (1, 2, 3, 4, 6, 8):
        config = _population(base, size)
        alone = dataclasses.replace(config, exchange=NONE)
        arms.append(Arm(name=f"{size} alone", description=f"{size} networks, no exchange", config=alone))
        if size > 1:
            arms.append(
                Arm(
                    name=f"{size} grafting",
                    description=f"{size} networks that graft on a ring",
                    config=config,
                    against=f"{size} alone",
                )
            )
    return _table("paper-table-networks", "How many networks should a population have?", arms)


def strengths(data: DataConfig, epochs: int | None) -> Comparison:
    """Return the table of A and c in Filter Grafting's readme (MobileNetV2).

    Args:
        data: Data that the networks train on.
        epochs: Epochs of each network. None: those of the paper.
    """
    base = _on(recipes.paper("cifar10", MOBILE), data, epochs)
    settings = {f"A = 0.4, c = {c:g}": _graft(c=float(c)) for c in (1, 5, 10, 50, 100, 500)}
    settings |= {f"A = {a:g}, c = 100": _graft(a=a, c=100.0) for a in (0.0, 0.2, 0.6, 0.8, 1.0)}
    return _table("paper-table-strengths", "How strong should a graft be?", _methods(MOBILE, base, settings))


def levels(data: DataConfig, epochs: int | None) -> Comparison:
    """Return the tables in Filter Grafting's readme on levels (VGG-16) and leaky ReLU (ResNet-32, 56, 110).

    Args:
        data: Data that the networks train on.
        epochs: Epochs of each network. None: those of the paper.
    """
    base = _on(recipes.paper("cifar10", "vgg16"), data, epochs)
    arms = _methods("vgg16", base, {"layer": {}, "filter": _graft(level="filter", criterion="batch_norm")})
    for architecture in ("resnet32", "resnet56", "resnet110"):
        leaky = _on(recipes.paper("cifar10", architecture), data, epochs)
        leaky = dataclasses.replace(leaky, model=ModelConfig(architecture=architecture, leaky=True))
        arms += _methods(f"{architecture}, leaky", leaky, {"grafting": {}})
    return _table(
        "paper-table-levels",
        "Should layers or filters be grafted, and what does grafting gain without dead units?",
        arms,
    )


def imagenet(data: DataConfig, epochs: int | None) -> Comparison:
    """Return the ImageNet table of Filter Grafting.

    Args:
        data: Data that the networks train on.
        epochs: Epochs of each network. None: those of the paper.
    """
    arms = []
    for architecture in ("resnet18", "resnet34", "resnet50"):
        arms += _methods(architecture, _on(recipes.imagenet(architecture), data, epochs), {"grafting": {}})
    return _table("paper-table-imagenet", "How much does grafting gain on ImageNet?", arms, seeds=(0,))


def persons(data: DataConfig, epochs: int | None) -> Comparison:
    """Return the table of person re-identification of Filter Grafting.

    With other data than the recipe's, the command needs `--train bounding_box_train --test bounding_box_test --query
    query`.

    Args:
        data: Data that the networks train on, with query images.
        epochs: Epochs of each network. None: those of the paper.
    """
    arms = []
    for architecture in ("resnet50", "mobilenet_v2"):
        base = _on(recipes.persons(architecture), data, epochs)
        for size in (2, 4):
            arms += _methods(f"{size} {architecture}", _population(base, size), {"grafting": {}})
    return _table("paper-table-persons", "How much does grafting gain in person re-identification?", arms)


def density(data: DataConfig, epochs: int | None) -> Comparison:
    """Return the table of filter density of Grafting+: valid and invalid filters of ResNet-56 taught by ResNet-56.

    Args:
        data: Data that the networks train on.
        epochs: Epochs of each network. None: those of the paper.
    """
    arms = _taught("resnet56", 1, "resnet56", 2, data, epochs)
    return _table("paper-table-density", "How do grafting and teaching change the filters?", arms)


def cultivation(data: DataConfig, epochs: int | None) -> Comparison:
    """Return the main table of Grafting+: baseline, grafting, teaching, and both.

    Args:
        data: Data that the networks train on.
        epochs: Epochs of each network. None: those of the paper.
    """
    arms: list[Arm] = []
    for teacher, student in (("resnet56", "resnet32"), ("resnet110", "resnet56"), ("resnet110", MOBILE)):
        arms += _new(_taught(teacher, 1, student, 2, data, epochs), arms)
    return _table("paper-table-cultivation", "What does teaching add to grafting?", arms)


def teachers(data: DataConfig, epochs: int | None) -> Comparison:
    """Return the table of numbers of teachers and students of Grafting+ (ResNet-110, MobileNetV2).

    Args:
        data: Data that the networks train on.
        epochs: Epochs of each network. None: those of the paper.
    """
    arms: list[Arm] = []
    for count, size in ((1, 2), (1, 4), (1, 6), (2, 2), (3, 2)):
        teacher, *_, student = _taught("resnet110", count, MOBILE, size, data, epochs)
        student = dataclasses.replace(
            student, name=f"{count} teachers, {size} students", against="1 teachers, 2 students"
        )
        arms += _new([teacher, student], arms)
    return _table("paper-table-teachers", "How many teachers and students should there be?", arms)


def _new(arms: Sequence[Arm], known: Sequence[Arm]) -> list[Arm]:
    return [arm for arm in arms if arm.name not in {other.name for other in known}]


def _taught(teacher: str, count: int, student: str, size: int, data: DataConfig, epochs: int | None) -> list[Arm]:
    """Return the arm of the teachers, which train first and without exchange, and the arms of the students."""
    alone = _population(_on(recipes.paper("cifar10", teacher), data, epochs, exchange=NONE), count)
    name = f"{count} {teacher} to teach"
    teacher_arm = Arm(name=name, description="teachers, trained without exchange", config=alone, against=name)
    base = _population(_on(recipes.paper("cifar10", student), data, epochs), size)
    folders = tuple(f"{ARM}{teacher_arm.name}#{number}" for number in range(count))
    taught = {"distillation": DistillationConfig(teachers=folders)}
    methods_of_students = {"grafting": {}, "teaching": taught | {"exchange": NONE}, "grafting+": taught}
    return [teacher_arm, *_methods(f"{student} from {teacher}", base, methods_of_students)]


def compact_cifar(data: DataConfig, epochs: int | None) -> Comparison:
    """Return the CIFAR-10 tables of DCFF: full networks, and compact ones in modes random, published and stable.

    Args:
        data: Data that the networks train on.
        epochs: Epochs of each network. None: those of the paper.
    """
    return _compact(
        "paper-table-dcff-cifar10", data, epochs, lambda owner, preset: recipes.dcff("cifar10", owner, preset)
    )


def compact_imagenet(data: DataConfig, epochs: int | None) -> Comparison:
    """Return the ImageNet table of DCFF: ResNet-50 at six compression rates.

    Args:
        data: Data that the networks train on.
        epochs: Epochs of each network. None: those of the paper.
    """
    return _compact("paper-table-dcff-imagenet", data, epochs, recipes.dcff_imagenet)


def _compact(name: str, data: DataConfig, epochs: int | None, recipe: Recipe) -> Comparison:
    architecture = "resnet50" if "imagenet" in name else ""
    arms: list[Arm] = []
    for preset, (owner, _) in PRESETS.items():
        if (owner == "resnet50") != bool(architecture):
            continue
        base = _on(recipe(owner, preset), data, epochs)
        full = f"{owner}: full" if not architecture else f"{owner}, {preset.split('-')[1]}: full"
        if full not in {arm.name for arm in arms}:
            arms.append(
                Arm(name=full, description="all filters", config=dataclasses.replace(base, fusion=FusionConfig()))
            )
        for mode in ("random", "published", "stable"):
            config = dataclasses.replace(base, fusion=FusionConfig(mode=mode, preset=preset))
            arms.append(Arm(name=f"{preset}: {mode}", description=f"fusion.mode {mode}", config=config, against=full))
    return _table(name, "What do compact networks lose, and what does fusing filters add?", arms, seeds=(0, 1, 2))


PAPER_TABLES: dict[str, tuple[str, Callable[[DataConfig, int | None], Comparison]]] = {
    f"paper-table-{name}": (description, make)
    for name, description, make in (
        ("scions", "scions from noise, the network itself or others", scion_sources),
        ("criteria", "l1 norm or entropy, four architectures", criteria),
        ("methods", "mutual learning, grafting, spread learning rates", methods),
        ("networks", "one to eight networks", networks),
        ("strengths", "strength of a graft: A and c", strengths),
        ("levels", "layers or filters; leaky ReLU", levels),
        ("imagenet", "ResNet-18, 34, 50", imagenet),
        ("persons", "person re-identification", persons),
        ("density", "grafting+ on ResNet-56", density),
        ("cultivation", "grafting+: grafting, teaching and both", cultivation),
        ("teachers", "grafting+: numbers of teachers and students", teachers),
        ("dcff-cifar10", "DCFF: VGG-16, ResNet-56, ResNet-110, GoogLeNet", compact_cifar),
        ("dcff-imagenet", "DCFF: ResNet-50", compact_imagenet),
    )
}
"""Published tables by name: a description, and the function that makes the comparison. Its epochs are the paper's if
they are None."""
