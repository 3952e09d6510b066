"""The rules of the house: which package may import which, the names it shows, the size of its listing."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import inarch
from inarch import actors, population

ROOT = Path(__file__).resolve().parents[1]

PACKAGES = ("population", "actors", "experiments")

STOREYS: dict[str, tuple[tuple[str, ...], ...]] = {
    "population": (
        ("errors",),
        ("config", "extension"),
        ("state", "data"),
        ("membership", "fusion"),
        ("grafting", "models", "persistence"),
        ("evaluation",),
        ("exchange", "tasks"),
        ("training", "report"),
        ("simulator",),
    ),
    "actors": (
        ("messages", "retry", "termination", "pickling"),
        ("coordinator_api", "resources", "registrations", "event_text"),
        ("network",),
        ("coordinator",),
        ("driver",),
        ("guest",),
        ("adapters",),
    ),
    "experiments": (
        ("recipes", "display", "result_display", "saved_runs", "grafana", "export_code"),
        ("export", "comparison", "replaying"),
        ("benchmarks", "result_commands"),
        ("comparison_commands",),
        ("cli",),
    ),
}
"""The storeys of each package, lowest first. A module imports only from storeys below its own."""

MAX_ENTRIES = 16
"""Most entries in the listing of a package, without `__init__.py`, `__init__.pyi` and `py.typed`."""

MAX_TEST_NAME = 60
"""Most characters of a test's name."""

MAX_LINES = 300
"""Most lines of a file outside docstrings. Longer files say why at their top."""

FORBIDDEN = {
    "population": ("ray", "inarch.actors", "inarch.experiments", "time", "datetime"),
    "actors": ("inarch.experiments",),
}
"""Imports that each package must not have. Nothing in population reads a wall clock."""


def imports(path: Path) -> set[str]:
    """The modules that a file imports, at its top or in a function."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, f"{path}: a relative import hides its storey"
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    return modules


def is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def test_imports_point_downward() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for package, forbidden in FORBIDDEN.items()
        for path in (ROOT / package).rglob("*.py")
        for module in imports(path)
        if any(is_within(module, name) for name in forbidden)
    ]
    assert wrong == []


def test_storeys_name_every_room() -> None:
    for package, storeys in STOREYS.items():
        rooms = {path.stem for path in entries(ROOT / package)}
        assert rooms == {room for storey in storeys for room in storey}, package


def test_storeys_are_imported_downward_only() -> None:
    wrong = []
    for package, storeys in STOREYS.items():
        level = {room: number for number, storey in enumerate(storeys) for room in storey}
        for path in (ROOT / package).rglob("*.py"):
            room = path.relative_to(ROOT / package).parts[0].removesuffix(".py")
            if room == "__init__":
                continue
            for module in imports(path):
                parts = module.split(".")
                if parts[:2] != ["inarch", package] or len(parts) < 3 or parts[2] in (room, "__init__"):
                    continue
                if parts[2] not in level or level[parts[2]] >= level[room]:
                    wrong.append(f"{path.relative_to(ROOT)} (storey {level[room]}) imports {module}")
    assert wrong == []


def entries(folder: Path) -> list[Path]:
    """The entries of a package's listing."""
    ignored = {"__init__.py", "__init__.pyi", "py.typed", "__pycache__", "results"}
    return [path for path in sorted(folder.iterdir()) if path.name not in ignored and path.suffix != ".so"]


def test_exported_names_are_not_those_of_modules() -> None:
    """Importing a module would otherwise hide the name, depending on the order of imports."""
    hidden: list[str] = []
    stubs = [stub for package in PACKAGES for stub in (ROOT / package).rglob("__init__.pyi")]
    assert len(stubs) >= 6
    for stub in stubs:
        tree = ast.parse(stub.read_text())
        exported = {alias.name for node in ast.walk(tree) for alias in getattr(node, "names", ())}
        modules = {path.stem for path in stub.parent.iterdir() if path.suffix == ".py" or path.is_dir()}
        hidden += [f"{stub.parent.relative_to(ROOT)}: {name}" for name in exported & modules]
    assert hidden == []


def test_listing_of_a_package_is_short() -> None:
    folders = [path for package in PACKAGES for path in [ROOT / package, *(ROOT / package).rglob("*")] if path.is_dir()]
    long = {
        str(folder.relative_to(ROOT)): len(entries(folder))
        for folder in folders
        if folder.name not in ("__pycache__", "results") and "results" not in folder.parts
        if len(entries(folder)) > MAX_ENTRIES
    }
    assert long == {}


def num_code_lines(path: Path) -> int:
    """Lines of a file outside docstrings. A docstring with one parameter a line must not make a file too long."""
    source = path.read_text()
    docstrings = sum(
        node.value.end_lineno - node.value.lineno + 1
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        if node.value.end_lineno is not None
    )
    return len(source.splitlines()) - docstrings


def test_long_files_say_why() -> None:
    wrong = [
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if num_code_lines(path) > MAX_LINES
        and f"Longer than {MAX_LINES} lines:" not in (ast.get_docstring(ast.parse(path.read_text())) or "")
    ]
    assert wrong == []


def test_no_file_imports_a_package_by_its_folder_alone() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for package in (*PACKAGES, "tests")
        for path in (ROOT / package).rglob("*.py")
        for module in imports(path)
        if any(is_within(module, name) for name in PACKAGES)
    ]
    assert wrong == []


def test_exported_names_exist_and_are_sorted() -> None:
    for package in (inarch, population, actors):
        assert list(package.__all__) == sorted(package.__all__)
        assert all(hasattr(package, name) for name in package.__all__)
    assert {"graft", "adaptive_weight", "GraftConfig", "Simulator", "Trainer", "RunConfig"} <= set(population.__all__)
    assert {"PopulationRun", "NetworkActor", "CoordinatorActor"} <= set(actors.__all__)


def test_no_file_is_called_utils() -> None:
    names = {path.stem for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert names.isdisjoint({"utils", "helpers", "common", "base", "misc"})


def test_test_names_are_short() -> None:
    long = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_") and len(node.name) > MAX_TEST_NAME
    ]
    assert long == []


def test_actors_know_no_task() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} names {word}"
        for path in (ROOT / "actors").rglob("*.py")
        for word in ("accuracy", "image")
        if word in path.read_text().lower()
    ]
    assert not wrong


def test_no_file_of_a_run_is_unpickled() -> None:
    """A pickle runs code when it is read. Files of runs come from other users, too."""
    unpickling = re.compile(r"torch\.load|\w*pickle(\(\))?\.(load|loads|Unpickler)")
    calls = {
        f"{path.relative_to(ROOT)}: {ast.unparse(node.func)}"
        for top in ("population", "actors", "experiments")
        for path in (ROOT / top).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and unpickling.fullmatch(ast.unparse(node.func))
    }
    assert calls == {
        "actors/pickling.py: _cloudpickle().loads",  # registered objects, which a driver sends to its own run
        "experiments/benchmarks/exchange/peer.py: torch.load",  # what the benchmark itself has just written
        "experiments/benchmarks/gpu/graft_phases.py: torch.load",
    }


def test_tests_read_no_private_attributes() -> None:
    """Names of other libraries and the private methods of classes that a test itself defines are allowed."""
    allowed = {"_asdict", "_replace", "_forward_pre_hooks", "_forward_hooks", "_private", "_fields"}
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno} reads {ast.unparse(node)}"
        for path in (ROOT / "tests").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__")
        if node.attr not in allowed and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
        if ast.unparse(node).partition(".")[0] not in ("torch", "sys", "Tensor", "func", "FOREACH")
    ]
    assert wrong == []


def test_constructors_have_at_most_six_parameters() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}: {owner.name}"
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        for owner in ast.walk(ast.parse(path.read_text()))
        if isinstance(owner, ast.ClassDef)
        for method in owner.body
        if isinstance(method, ast.FunctionDef) and method.name == "__init__"
        if len(method.args.args) - 1 + len(method.args.kwonlyargs) > 6
    ]
    assert wrong == []


def test_docstrings_have_no_semicolons() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{text.lineno}"
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        for text in node.body
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and ";" in str(text.value.value)
    ]
    assert wrong == []


def test_docstrings_list_the_parameters_in_order() -> None:
    """A docstring with sections lists all parameters."""
    functions = [
        (path.relative_to(ROOT), node, text)
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and (text := ast.get_docstring(node))
        if re.search(r"^(Args|Returns|Raises|Yields):$", text, re.MULTILINE)
    ]
    assert len(functions) > 100
    wrong = []
    for path, node, text in functions:
        arguments = [*node.args.posonlyargs, *node.args.args, node.args.vararg, *node.args.kwonlyargs, node.args.kwarg]
        names = [argument.arg for argument in arguments if argument is not None and argument.arg not in ("self", "cls")]
        section = re.search(r"^Args:\n(.*?)(?=^\w|\Z)", text, re.MULTILINE | re.DOTALL)
        listed = re.findall(r"^    \*{0,2}(\w+):", section.group(1), re.MULTILINE) if section else []
        if names != listed:
            wrong.append(f"{path}:{node.lineno} {node.name}: {names}, not {listed}")
    assert wrong == []


def test_only_integration_tests_use_ray() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}"
        for path in (ROOT / "tests").rglob("test_*.py")
        if {"integration", "gpu"}.isdisjoint(path.relative_to(ROOT).parts)
        and path.name not in ("test_readme.py", Path(__file__).name)
        if "pytest.mark.ray" in path.read_text() or "import ray" in path.read_text()
    ]
    assert wrong == []
