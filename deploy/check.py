"""Check the files of this folder strictly: a field that no schema knows is an error.

    python deploy/check.py [--crds FOLDER] [--folder FOLDER]

- Manifests of KubeRay (`kuberay/*.yaml`) are checked against the CustomResourceDefinitions of KubeRay in the folder
  `--crds`. They belong to KubeRay and are not part of this project. A PersistentVolumeClaim is checked against the
  template of a claim that the same definitions contain. Of other kinds, only the name and the mounts are checked.
- `cluster.yaml` is checked against Ray's own schema and by Ray's own validation. If botocore is installed, machines are
  checked against the parameters of EC2. Names of resources are free in Ray, so a misspelled one is not found.

A field of `rayStartParams` must be an option of `ray start`, and `limits` and `requests` name resources as Kubernetes
does. Rules in CEL (x-kubernetes-validations) and facts that only a cluster knows are not checked.

Each fault is a line, and the exit status is then 1.
"""

from __future__ import annotations

import argparse
import copy
import difflib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

import ray.autoscaler
import yaml
from jsonschema import Draft7Validator
from jsonschema.exceptions import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import start as ray_start

Schema: TypeAlias = dict[str, Any]

Schemas: TypeAlias = dict[tuple[str, str], Schema]
"""Schemas of manifests by apiVersion and kind."""

Place: TypeAlias = tuple[str | int, ...]
"""Names of fields and numbers of items, from the top of a document."""

ANYTHING: Schema = {}

TEXTS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}

METADATA: Schema = {
    "type": "object",
    "required": ["name"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$"},
        "namespace": {"type": "string"},
        "labels": TEXTS,
        "annotations": TEXTS,
    },
}
"""Metadata of a manifest. Definitions leave them to Kubernetes."""

RESOURCES: Schema = {"pattern": "^(cpu|memory|storage|ephemeral-storage|hugepages-.+|.+/.+)$"}
"""Names of resources in Kubernetes: its own, and those of others with a domain, such as nvidia.com/gpu."""

RAY_START: Schema = {"enum": sorted(name.removeprefix("--") for option in ray_start.params for name in option.opts)}
"""Options of `ray start`, which KubeRay calls with a group's `rayStartParams`."""

FREE_NAMES = {"limits": RESOURCES, "requests": RESOURCES, "rayStartParams": RAY_START}
"""Schemas of the names in objects that the definitions of KubeRay leave open."""

PROVIDER_FIELDS = ("aws_credentials", "key_pair")
"""Fields of `provider` that Ray reads on AWS, but that its schema does not list."""

SHAPES = {"list": "array", "boolean": "boolean", "integer": "integer", "long": "integer", "double": "number"}
"""JSON types of botocore's types. Structures are objects, and all others are written as text."""

MAX_MESSAGE = 200
"""Most characters of a message of jsonschema. Longer ones repeat a part of the file."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A fault of a file."""

    place: Place = ()
    """Field with the fault. Empty: the whole document."""
    problem: str
    """What is wrong with it."""

    def __str__(self) -> str:
        return ": ".join(part for part in (".".join(map(str, self.place)), self.problem) if part)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the check of a file found."""

    file: Path
    summary: str
    """What was checked, if there are no faults."""
    faults: tuple[Fault, ...] = ()

    def lines(self) -> list[str]:
        """Return a line for each fault. Without faults, the summary is the only line."""
        return [f"{self.file}: {fault}" for fault in self.faults] or [f"{self.file}: {self.summary}"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Check a folder, print the reports, and return the exit status.

    Args:
        arguments: Words of the command line. None: those of `sys.argv`.
    """
    here = Path(os.path.relpath(Path(__file__).parent))
    parser = argparse.ArgumentParser(description="Check the files for KubeRay and for Ray's cluster launcher.")
    parser.add_argument("--crds", type=Path, help="folder with KubeRay's CustomResourceDefinitions (ray.io_*.yaml)")
    parser.add_argument("--folder", type=Path, default=here, help="folder to check (default: the folder of this file)")
    options = parser.parse_args(arguments)
    schemas = read_schemas(options.crds) if options.crds else {}
    if options.crds and not schemas:
        parser.error(f"--crds: {options.crds} holds no CustomResourceDefinition")
    manifests = sorted(options.folder.glob("kuberay/*.yaml"))
    reports = [*(check_manifests(path, schemas) for path in manifests), check_launcher(options.folder / "cluster.yaml")]
    if not schemas:
        print("the fields of KubeRay's files were not checked, because --crds was not given")
    for report in reports:
        print("\n".join(report.lines()))
    return 1 if any(report.faults for report in reports) else 0


# Manifests.


def read_schemas(folder: Path) -> Schemas:
    """Return the strict schemas of all kinds that the CustomResourceDefinitions in a folder define."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the definitions have megabytes
    schemas: Schemas = {}
    for path in sorted(folder.glob("*.yaml")):
        for definition in yaml.load_all(path.read_text(), Loader=loader):
            if not isinstance(definition, Mapping) or definition.get("kind") != "CustomResourceDefinition":
                continue
            group, kind = definition["spec"]["group"], definition["spec"]["names"]["kind"]
            for version in definition["spec"]["versions"]:
                if version["served"] and not version.get("deprecated"):
                    schema = strict(version["schema"]["openAPIV3Schema"])
                    schemas[f"{group}/{version['name']}", kind] = manifest_schema(schema["properties"])
                    for claim in claim_specs(schema):
                        schemas["v1", "PersistentVolumeClaim"] = manifest_schema({"spec": claim})
    return schemas


def strict(schema: Schema) -> Schema:
    """Return a JSON schema in which an unknown field is an error.

    Args:
        schema: A structural schema of Kubernetes (OpenAPI 3). It may hold `nullable` and `x-kubernetes-...`.
    """
    result = dict(schema)
    if "properties" in schema:
        result["properties"] = {name: strict(part) for name, part in schema["properties"].items()}
        for name in result["properties"].keys() & FREE_NAMES.keys():
            result["properties"][name]["propertyNames"] = FREE_NAMES[name]
    for name in ("items", "additionalProperties"):
        if isinstance(schema.get(name), dict):
            result[name] = strict(schema[name])
    if schema.get("type") == "object" and not schema.get("x-kubernetes-preserve-unknown-fields"):
        result.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        result.setdefault("anyOf", [{"type": "integer"}, {"type": "string"}])
    return {"anyOf": [{"type": "null"}, result]} if schema.get("nullable") else result


def manifest_schema(properties: Schema) -> Schema:
    """Return the schema of a whole manifest from the schemas of the fields that its definition describes."""
    fields = {**properties, "apiVersion": ANYTHING, "kind": ANYTHING, "metadata": METADATA}
    required = ["metadata", "spec"]
    return {"type": "object", "required": required, "additionalProperties": False, "properties": fields}


def claim_specs(schema: Schema) -> Iterator[Schema]:
    """Yield the schemas of a PersistentVolumeClaim's spec. Pods contain them as templates of ephemeral volumes."""
    for name, part in schema.get("properties", {}).items():
        if name == "volumeClaimTemplate":
            yield part["properties"]["spec"]
        else:
            yield from claim_specs(part)
    if isinstance(schema.get("items"), dict):
        yield from claim_specs(schema["items"])


def check_manifests(path: Path, schemas: Schemas) -> Report:
    """Check the manifests in a file.

    Args:
        path: File with one or more YAML documents.
        schemas: Schemas by apiVersion and kind. Of other kinds, only the name and the mounts are checked.
    """
    documents, faults = read_documents(path)
    kinds = []
    for document in documents:
        version, kind = document.get("apiVersion"), document.get("kind")
        versions = [known for known, name in schemas if name == kind]
        if not (isinstance(version, str) and isinstance(kind, str)):
            faults.append(Fault(problem="a manifest needs apiVersion and kind"))
        elif versions and version not in versions:
            faults.append(Fault(place=("apiVersion",), problem=f"{kind} has {' or '.join(versions)}, got {version}"))
        else:
            schema = schemas.get((version, kind))
            kinds.append(kind if schema else f"only name and mounts of {kind}")
            faults += faults_of(document, schema or {"properties": {"metadata": METADATA}, "required": ["metadata"]})
            faults += mount_faults(document)
    return Report(file=path, summary=f"ok ({', '.join(kinds)})", faults=tuple(faults))


def mount_faults(part: Any, place: Place = ()) -> Iterator[Fault]:
    """Yield a fault for each mount of a container whose volume its pod does not have.

    Args:
        part: A manifest, or a part of it.
        place: Place of the part in the manifest.
    """
    volumes = {volume.get("name") for _, volume in fields_in(part, "volumes")}
    for number, container in fields_in(part, "containers"):
        for mount_number, mount in fields_in(container, "volumeMounts"):
            if mount.get("name") not in volumes:
                name = (*place, "containers", number, "volumeMounts", mount_number, "name")
                yield Fault(place=name, problem=f"the pod has no volume {mount.get('name')!r}")
    items = part.items() if isinstance(part, Mapping) else enumerate(part) if isinstance(part, list) else ()
    for name, item in items:
        yield from mount_faults(item, (*place, name))


def fields_in(part: Any, name: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the objects in a list that is a field of an object, with their numbers. A schema finds other forms."""
    items = part.get(name) if isinstance(part, Mapping) else None
    for number, item in enumerate(items if isinstance(items, list) else ()):
        if isinstance(item, Mapping):
            yield number, item


# The file of the cluster launcher.


def check_launcher(path: Path) -> Report:
    """Check a file for Ray's cluster launcher."""
    documents, faults = read_documents(path)
    if len(documents) > 1:
        faults.append(Fault(problem="Ray reads one document, and the file has more"))
    if faults:
        return Report(file=path, summary="", faults=tuple(faults))
    config = documents[0]
    provider = config.get("provider")
    is_on_aws = isinstance(provider, Mapping) and provider.get("type") == "aws"
    machine = machine_schema() if is_on_aws else None
    faults = faults_of(config, launcher_schema(machine)) or ray_faults(config)
    summary = "ok" if machine is not None else "ok, but node_config was not checked; that needs AWS and botocore"
    return Report(file=path, summary=summary, faults=tuple(faults))


def launcher_schema(machine: Schema | None) -> Schema:
    """Return Ray's schema of a launcher's file, in which unknown fields of `provider` are errors too.

    Args:
        machine: Schema of a `node_config`. None: any field is allowed there, as in Ray's schema.
    """
    schema = json.loads(Path(str(ray.autoscaler.__file__)).with_name("ray-schema.json").read_text())
    provider = schema["properties"]["provider"]
    provider["properties"].update(dict.fromkeys(PROVIDER_FIELDS, ANYTHING))
    provider["additionalProperties"] = False
    if machine is not None:
        node_type = schema["properties"]["available_node_types"]["patternProperties"][".*"]
        node_type["properties"]["node_config"] = machine
    return schema


def machine_schema() -> Schema | None:
    """Return the schema of a machine's parameters on EC2, as botocore describes them. None without botocore."""
    try:
        import botocore.session
    except ImportError:  # Ray needs it to start machines, but not to check files
        return None
    operation = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances")
    schema = shape_schema(operation.input_shape)
    schema["properties"]["SubnetIds"] = {"type": "array", "items": {"type": "string"}}  # Ray picks one of them
    schema["required"] = []  # Ray adds the number of machines
    return schema


def shape_schema(shape: Any) -> Schema:
    """Return the strict JSON schema of a type of botocore."""
    if shape.type_name == "structure":
        members = {name: shape_schema(member) for name, member in shape.members.items()}
        required = list(shape.required_members)
        return {"type": "object", "required": required, "additionalProperties": False, "properties": members}
    schema: Schema = {"type": SHAPES.get(shape.type_name, "string")}
    if shape.type_name == "list":
        schema["items"] = shape_schema(shape.member)
    return schema


def ray_faults(config: Mapping[str, Any]) -> list[Fault]:
    """Return the fault that Ray itself finds in a launcher's file, if any. Ray stops at the first."""
    try:
        validate_config(prepare_config(copy.deepcopy(dict(config))))
    except ValidationError as error:
        return list(explained(error))
    except Exception as error:  # Ray has no error of its own for this, and raises many kinds
        return [Fault(problem=f"Ray refuses the file: {error}")]
    return []


# Both.


class _UniqueKeys(yaml.SafeLoader):
    """Loader that refuses a field which appears twice. PyYAML would silently keep the second."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        own = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]  # <<: *anchor
        keys = [self.construct_object(key, deep=True) for key in own]
        for number, key in enumerate(keys):
            if key in keys[:number]:
                mark = own[number].start_mark
                raise yaml.constructor.ConstructorError(problem=f"field {key} appears twice", problem_mark=mark)
        return super().construct_mapping(node, deep)


def read_documents(path: Path) -> tuple[list[Mapping[str, Any]], list[Fault]]:
    """Return the YAML documents in a file. If it cannot be read, there are none, and the fault is returned."""
    try:
        documents = [document for document in yaml.load_all(path.read_text(), Loader=_UniqueKeys) if document]
    except (OSError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}: " if mark is not None else ""
        return [], [Fault(problem=f"{place}{getattr(error, 'problem', None) or error}")]
    if not documents or not all(isinstance(document, Mapping) for document in documents):
        return [], [Fault(problem="the file must hold YAML documents with fields")]
    return documents, []


def faults_of(document: Mapping[str, Any], schema: Schema) -> list[Fault]:
    """Return the faults that a schema finds in a document, in the order of their places."""
    faults = [fault for error in Draft7Validator(schema).iter_errors(document) for fault in explained(error)]
    return sorted(faults, key=lambda fault: [str(part) for part in fault.place])


def explained(error: ValidationError) -> Iterator[Fault]:
    """Yield the faults that an error of jsonschema stands for. It names all unknown fields of an object at once."""
    place = tuple(error.absolute_path)
    if error.validator == "additionalProperties" and error.validator_value is False:
        known = list(cast("Schema", error.schema).get("properties", {}))
        for name in cast("Schema", error.instance).keys() - set(known):
            yield unknown_field((*place, name), known)
    elif "propertyNames" in error.absolute_schema_path:
        yield unknown_field((*place, str(error.instance)), cast("Schema", error.schema).get("enum", []))
    elif len(error.message) > MAX_MESSAGE:
        yield Fault(place=place, problem=f"{error.message[:MAX_MESSAGE]}...")
    else:
        yield Fault(place=place, problem=error.message)


def unknown_field(place: Place, known: Sequence[str]) -> Fault:
    """Return the fault of a field that no schema knows, with the known field that is most like it."""
    close = difflib.get_close_matches(str(place[-1]), known, n=1)
    return Fault(place=place, problem="unknown field" + (f"; is it {close[0]}?" if close else ""))


if __name__ == "__main__":
    sys.exit(main())
