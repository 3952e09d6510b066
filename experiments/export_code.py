"""Code and metadata with which others use an exported network: how it is built, loaded and fed."""

from __future__ import annotations

import json
from typing import Any

from inarch.population.data import DataReport, report_from
from inarch.population.persistence.paths import parent_and_name


def is_of_images(recorded: dict[str, Any]) -> bool:
    """Return whether the networks of a run classify images.

    Args:
        recorded: Content of the run's config.json.
    """
    return "num_classes" in recorded["info"]["facts"]


def data_report(recorded: dict[str, Any]) -> DataReport | None:
    """Return the description of the data that a run trained on. None if the run has none.

    Args:
        recorded: Content of the run's config.json.
    """
    data = recorded["info"]["facts"].get("data")
    return None if data is None else report_from(data)


def preprocessing_of(recorded: dict[str, Any]) -> dict[str, str]:
    """Return the preprocessing of images as safetensors metadata, which are strings. Lists are JSON.

    Args:
        recorded: Content of the run's config.json.
    """
    report = data_report(recorded)
    if report is None:
        return {}
    channels, height, width = report.image_shape
    return {
        "class_names": json.dumps(report.class_names),
        "channels": str(channels),
        "height": str(height),
        "width": str(width),
        "resize": report.resize,
        "mean": json.dumps(report.mean),
        "deviation": json.dumps(report.deviation),
        "pixel_range": f"0 to {report.white:g}" if report.is_pixels else "not pixels",
    }


def loading_code(file: str, recorded: dict[str, Any]) -> str:
    """Return Python code that loads an exported network and classifies one image.

    Args:
        file: Path or URI of the exported file. Code for a URI copies the file into the working directory first.
        recorded: Content of the run's config.json.
    """
    if "://" in file:
        name = parent_and_name(file)[1]
        copying = (
            f"from pyarrow import fs\n\nbucket, path = fs.FileSystem.from_uri({file!r})\n"
            f'fs.copy_files(path, "{name}", source_filesystem=bucket, destination_filesystem=fs.LocalFileSystem())\n\n'
        )
        return copying + loading_code(name, recorded)
    if not is_of_images(recorded):
        return f'import safetensors.torch\n\nstate = safetensors.torch.load_file("{file}")  # for the task\'s own model'
    imports, construction = _model_lines(recorded)
    report = data_report(recorded)
    loads = "safetensors.torch.load_model(model, file)\nmodel.eval()"
    if report is None or not report.is_pixels:
        return f'import safetensors.torch\n{imports}\nfile = "{file}"\n{construction}\n{loads}'
    _, height, width = report.image_shape
    sizes = {
        "none": [],
        "shorter side": [f"v2.Resize({height}), v2.CenterCrop({height}),"],
        "margin": [f"v2.Resize({height * 8 // 7}), v2.CenterCrop({height}),"],
        "whole": [f"v2.Resize(({height}, {width})),"],
    }[report.resize]
    steps = [
        "v2.Grayscale(1)," if report.image_shape[0] == 1 else "v2.RGB(),",
        *sizes,
        "v2.ToImage(), v2.ToDtype(torch.float32, scale=True),",
        'v2.Normalize(json.loads(metadata["mean"]), json.loads(metadata["deviation"])),',
    ]
    indented = "\n".join(f"    {step}" for step in steps)
    size = "" if report.resize != "none" else f"  # an image of {width}x{height} pixels"
    return (
        f"import json\nimport numpy as np\nimport safetensors.torch\nimport torch\nfrom PIL import Image, ImageOps\n"
        f"from torchvision.transforms import v2\n{imports}\n"
        f'file = "{file}"\n'
        f'metadata = safetensors.safe_open(file, "pt").metadata()\n'
        f"{construction}\n{loads}\n\n"
        f"transform = v2.Compose([\n{indented}\n])\n"
        f'class_names = json.loads(metadata["class_names"])\n\n\n'
        f"def classify(image: Image.Image) -> dict[str, float]:{size}\n"
        f"    image = ImageOps.exif_transpose(image)\n"
        f"    if image.mode.startswith('I;16'):\n"
        f"        image = Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))\n"
        f"    elif image.mode in ('I', 'F'):\n"
        f"        raise ValueError('save the image with 8 or 16 bits a channel')\n"
        f"    if image.has_transparency_data:\n"
        f"        white = Image.new('RGBA', image.size, 'white')\n"
        f"        image = Image.alpha_composite(white, image.convert('RGBA')).convert('RGB')\n"
        f"    with torch.no_grad():\n"
        f"        logits = model(transform(image)[None])\n"
        f"    return dict(zip(class_names, logits.softmax(1)[0].tolist()))\n"
    )


def _model_lines(recorded: dict[str, Any]) -> tuple[str, str]:
    """Return the lines of Python that import and build the model."""
    info, model = recorded["info"]["facts"], recorded["config"]["model"]
    options = f"num_classes={info['num_classes']}, in_channels={info['image_shape'][0]}"
    if recorded["model"] == "callable":
        return "", f"model = your_function({options.split(',')[0]})  # the callable that the run was started with"
    leaky = ", leaky=True" if model["leaky"] else ""
    fusion = recorded["config"].get("fusion", {"mode": "off"})
    names, compact = "ModelConfig", ""
    if fusion["mode"] != "off":
        preset = f'preset="{fusion["preset"]}"' if fusion["preset"] else f"rates={tuple(fusion['rates'])}"
        names = "FusionConfig, ModelConfig"
        compact = f', fusion=FusionConfig(mode="{fusion["mode"]}", {preset}), form="compact"'
    is_own = ":" in model["architecture"] and not model["architecture"].startswith("torchvision:")
    needed = "build, give_logits" if is_own else "build"
    shape = f", image_shape={tuple(info['image_shape'])}" if is_own else ""
    logits = "\ngive_logits(model)" if is_own else ""
    imports = f"from inarch.population import {names}\nfrom inarch.population.models import {needed}\n"
    return (
        imports,
        f'model = build(ModelConfig(architecture="{model["architecture"]}"{leaky}), {options}{shape}{compact}){logits}',
    )
