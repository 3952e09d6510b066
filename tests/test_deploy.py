"""The files in deploy/ pass their check, and the check names what is wrong in others.

`INARCH_CRDS` names a folder with KubeRay's CustomResourceDefinitions. Without it, small ones stand in for them.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tyro
import yaml

from deploy.check import Schemas, check_manifests, main, read_schemas
from inarch.experiments import recipes
from inarch.population import RunConfig

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"

MANIFESTS = sorted(path.name for path in (DEPLOY / "kuberay").iterdir())

DEFINITION = """
kind: CustomResourceDefinition
spec:
  group: ray.io
  names: {kind: RayCluster}
  versions:
  - {name: v1alpha1, served: true, deprecated: true, schema: {openAPIV3Schema: {type: object, properties: {}}}}
  - name: v1
    served: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          metadata: {type: object}
          spec:
            type: object
            required: [headGroupSpec]
            properties:
              rayVersion: {type: string, nullable: true}
              enableInTreeAutoscaling: {type: boolean}
              extra: {type: object, x-kubernetes-preserve-unknown-fields: true}
              headGroupSpec:
                type: object
                properties:
                  rayStartParams: {type: object, additionalProperties: {type: string}}
                  template:
                    type: object
                    properties:
                      containers:
                        type: array
                        items:
                          type: object
                          properties:
                            port: {anyOf: [{type: integer}, {type: string}], x-kubernetes-int-or-string: true}
                            limits: {type: object, additionalProperties: {x-kubernetes-int-or-string: true}}
                            volumeMounts: {type: array, items: {type: object, properties: {name: {type: string}}}}
                      volumes:
                        type: array
                        items:
                          type: object
                          properties:
                            name: {type: string}
                            volumeClaimTemplate:
                              type: object
                              properties:
                                spec: {type: object, properties: {accessModes: {type: array}}}
"""

MANIFEST = """
apiVersion: ray.io/v1
kind: RayCluster
metadata: {name: inarch}
spec:
  rayVersion: "2.60.0"
  enableInTreeAutoscaling: true
  extra: {anything: 1}
  headGroupSpec:
    rayStartParams: {num-cpus: "0"}
    template:
      containers:
      - {port: 80, limits: {cpu: 1, nvidia.com/gpu: "1"}, volumeMounts: [{name: runs}]}
      volumes: [{name: runs}]
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: runs}
spec: {accessModes: [ReadWriteMany]}
"""


@pytest.fixture
def schemas(tmp_path: Path) -> Schemas:
    folder = tmp_path / "definitions"
    folder.mkdir()
    (folder / "rayclusters.yaml").write_text(DEFINITION)
    return read_schemas(folder)


@pytest.fixture(scope="module")
def kuberay_schemas() -> Schemas:
    """Schemas from KubeRay's own definitions, if this machine has them."""
    folder = os.environ.get("INARCH_CRDS")
    if not folder:
        pytest.skip("INARCH_CRDS names no folder of KubeRay's definitions")  # they are not part of the project
    return read_schemas(Path(folder))


@pytest.fixture
def faults(schemas: Schemas, tmp_path: Path) -> Callable[[str, str], list[str]]:
    """Function that replaces a text in the small manifest, and returns the faults of the result."""

    def check(old: str, new: str) -> list[str]:
        assert old in MANIFEST
        path = tmp_path / "manifest.yaml"
        path.write_text(MANIFEST.replace(old, new))
        return [str(fault) for fault in check_manifests(path, schemas).faults]

    return check


def objects(part: Any) -> list[dict[str, Any]]:
    """Return all objects in a part of a manifest, the inner ones too."""
    items = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    return ([part] if isinstance(part, dict) else []) + [inner for item in items for inner in objects(item)]


def with_field(name: str, field: str) -> list[dict[str, Any]]:
    """Return all objects with a field in a manifest of the project."""
    manifest = yaml.safe_load((DEPLOY / "kuberay" / name).read_text())
    return [item for item in objects(manifest) if field in item]


def test_own_files_pass_and_unchecked_fields_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "the fields of KubeRay's files were not checked, because --crds was not given"
    assert len(lines) == 1 + len(MANIFESTS) + 1
    assert lines[-1].endswith("cluster.yaml: ok")


@pytest.mark.parametrize("name", MANIFESTS)
def test_own_manifests_pass_kuberays_definitions(name: str, kuberay_schemas: Schemas) -> None:
    report = check_manifests(DEPLOY / "kuberay" / name, kuberay_schemas)
    assert report.faults == ()
    assert "only" not in report.summary


@pytest.mark.parametrize(
    ("name", "field", "place"),
    [
        ("rayjob.yaml", "maxReplicas", "spec.rayClusterSpec.workerGroupSpecs.0.maxReplicasz: unknown field"),
        ("rayjob.yaml", "backoffLimit", "spec.backoffLimitz: unknown field; is it backoffLimit?"),
        ("raycluster.yaml", "idleTimeoutSeconds", "spec.autoscalerOptions.idleTimeoutSecondsz: unknown field"),
        ("raycluster.yaml", "num-cpus", "spec.headGroupSpec.rayStartParams.num-cpusz: unknown field; is it num-cpus?"),
        ("storage.yaml", "accessModes", "spec.accessModesz: unknown field; is it accessModes?"),
    ],
)
def test_misspelt_field_of_own_manifest_is_named(
    name: str, field: str, place: str, kuberay_schemas: Schemas, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_text((DEPLOY / "kuberay" / name).read_text().replace(f"{field}:", f"{field}z:"))
    assert any(str(fault).startswith(place) for fault in check_manifests(path, kuberay_schemas).faults)


def test_small_manifest_passes(faults: Callable[[str, str], list[str]]) -> None:
    assert faults("port: 80", "port: http") == []
    assert faults('rayVersion: "2.60.0"', "rayVersion: null") == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("headGroupSpec:", "headGroupSpecs:", "spec: 'headGroupSpec' is a required property"),
        ("enableInTree", "enableIntree", "spec.enableIntreeAutoscaling: unknown field; is it enableInTreeAutoscaling?"),
        ("  rayVersion", "  rayversion", "spec.rayversion: unknown field; is it rayVersion?"),
        ("port: 80", "port: [80]", "spec.headGroupSpec.template.containers.0.port: [80] is not valid under any of"),
        ("num-cpus", "num-cpu", "spec.headGroupSpec.rayStartParams.num-cpu: unknown field; is it num-cpus?"),
        ("{cpu: 1", "{cpus: 1", "spec.headGroupSpec.template.containers.0.limits.cpus: unknown field"),
        ("[{name: runs}]}", "[{name: run}]}", "spec.headGroupSpec.template.containers.0.volumeMounts.0.name: the pod"),
        ("{name: inarch}", "{nam: inarch}", "metadata: 'name' is a required property"),
        ("{name: inarch}", "{name: In_arch}", "metadata.name: 'In_arch' does not match"),
        ("ray.io/v1\n", "ray.io/v1alpha1\n", "apiVersion: RayCluster has ray.io/v1, got ray.io/v1alpha1"),
        ("accessModes", "accessMode", "spec.accessMode: unknown field; is it accessModes?"),
        ("kind: RayCluster\n", "", "a manifest needs apiVersion and kind"),
        ("  extra: {anything: 1}", "  rayVersion: 1", "line 8: field rayVersion appears twice"),
        ("spec:\n", "spec: [\n", "line "),
    ],
)
def test_fault_of_a_manifest_is_named(old: str, new: str, fault: str, faults: Callable[[str, str], list[str]]) -> None:
    assert any(line.startswith(fault) for line in faults(old, new)), faults(old, new)


def test_kind_without_definition_is_told(schemas: Schemas, tmp_path: Path) -> None:
    path = tmp_path / "secret.yaml"
    path.write_text("{apiVersion: v1, kind: Secret, metadata: {name: token}}")
    report = check_manifests(path, schemas)
    assert report.lines() == [f"{path}: ok (only name and mounts of Secret)"]


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("\nmax_workers:", "\nmax_workerz:", "max_workerz: unknown field; is it max_workers?"),
        ("\nmax_workers:", "\nmin_workers: 1\nmax_workers:", "min_workers: unknown field; is it max_workers?"),
        ("  region:", "  regio:", "provider.regio: unknown field; is it region?"),
        ("  head_image:", "  head_imag:", "docker.head_imag: unknown field; is it head_image?"),
        (
            "    min_workers:",
            "    min_worker:",
            "available_node_types.gpu.min_worker: unknown field",
        ),
        ("VolumeSize: 150", "VolumeSize: big", "available_node_types.gpu.node_config.BlockDeviceMappings.0.Ebs.Volume"),
        ("InstanceType: g5", "InstanceTyp: g5", "available_node_types.gpu.node_config.InstanceTyp: unknown field; is"),
        ("head_node_type: head", "head_node_type: hed", "Ray refuses the file: `head_node_type` must be one of"),
        ("speed: 1.0", "speed: fast", "upscaling_speed: 'fast' is not of type 'number'"),
    ],
)
def test_fault_of_the_launcher_file_is_named(
    old: str, new: str, fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (DEPLOY / "cluster.yaml").read_text()
    assert old in text
    path = tmp_path / "cluster.yaml"
    path.write_text(text.replace(old, new))
    assert main(["--folder", str(tmp_path)]) == 1
    assert any(line.startswith(f"{path}: {fault}") for line in capsys.readouterr().out.splitlines())


def test_missing_launcher_file_is_a_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--folder", str(tmp_path)]) == 1
    assert "No such file" in capsys.readouterr().out


def test_folder_without_definitions_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--crds", str(tmp_path)])
    assert stopped.value.code == 2
    assert "holds no CustomResourceDefinition" in capsys.readouterr().err


def test_all_files_name_one_version_of_ray() -> None:
    pattern = re.compile(r'(?:rayVersion: "|RAY_VERSION=|ray\[default\]==|rayproject/ray:)(\d[\d.]+)')
    paths = [*DEPLOY.rglob("*.yaml"), DEPLOY / "Dockerfile"]
    versions = {path.name: set(pattern.findall(path.read_text())) for path in paths}
    assert len(set.union(*versions.values())) == 1
    assert {name for name, found in versions.items() if not found} == {"storage.yaml"}


def test_pods_use_the_claim_in_storage() -> None:
    (metadata,) = with_field("storage.yaml", "name")
    for name in ("rayjob.yaml", "raycluster.yaml"):
        assert {item["claimName"] for item in with_field(name, "claimName")} == {metadata["name"]}


def test_worker_groups_can_grow_from_one_worker() -> None:
    for name in ("rayjob.yaml", "raycluster.yaml"):
        (group,) = with_field(name, "groupName")
        assert 1 <= group["minReplicas"] <= group["replicas"] < group["maxReplicas"]


def test_entrypoint_of_the_job_is_a_valid_run() -> None:
    (job,) = with_field("rayjob.yaml", "entrypoint")
    (group,) = with_field("rayjob.yaml", "groupName")
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    shell, option, script = shlex.split(job["entrypoint"])
    condition, resume, end, claims, train = (part.strip() for part in script.split(";"))
    _, _, _, recipe, *flags = shlex.split(train)
    config: RunConfig = tyro.cli(RunConfig, default=recipes.recipe(recipe), args=flags)
    folder = f"{config.storage}/{config.name}"
    assert (shell, option, end) == ("sh", "-c", "fi")
    assert condition == f"if test -f {folder}/config.json"
    assert shlex.split(resume) == ["then", "exec", "inarch", "resume", folder, "--trust"]
    assert claims == f"rm -rf {folder}/claims"
    assert (config.population.size, config.population.min_size) == (group["maxReplicas"], group["minReplicas"])
    assert (config.population.cpus, config.population.gpus) == (float(limits["cpu"]), float(limits["nvidia.com/gpu"]))


def test_image_has_all_files_that_the_wheel_needs() -> None:
    lines = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    kept = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert kept == {".package", "actors", "experiments", "population", "pyproject.toml", "README.md", "LICENSE"}
    assert all((DEPLOY.parent / name).exists() for name in kept)
