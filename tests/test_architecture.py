"""The shape of the package: imports point down, heavy libraries come late, nothing is pickled."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "rlrun"
FILES = sorted(PACKAGE.rglob("*.py"))

# What each part may import of rlrun, besides itself. Parts that stand side by side see nothing
# of each other; `schema`, `annotations` and `spaces` are known to all.
BELOW = {
    "functional": set(),
    "policies": {"functional"},
    "optim": {"functional"},
    "envs": set(),
    "data": {"envs"},
    "algorithms": {"functional", "policies", "optim", "envs", "data"},
    "run": {"functional", "policies", "envs", "data", "algorithms"},
}
KNOWN_TO_ALL = {"schema", "annotations", "spaces", "__version__"}
MAY_IMPORT = {
    "hydra": {"cli.py", "config.py", "env_source.py"},
    "omegaconf": {"cli.py", "config.py", "env_source.py"},
    "ale_py": {"atari.py", "registry.py"},
    "wandb": {"loggers.py"},
    "tensorboard": {"loggers.py"},
    "matplotlib": {"plots.py"},
    "rich": {"console.py", "frame.py"},
    "safetensors": {"store.py"},
}


def imports(path, top_level=False):
    """Modules that a file imports, as dotted names."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "rlrun":
                yield from (f"rlrun.{alias.name}" for alias in node.names)
            else:
                yield node.module


def test_there_is_something_to_check():
    assert len(FILES) > 30


@pytest.mark.parametrize("part", BELOW)
def test_imports_point_down(part):
    for path in (PACKAGE / part).glob("*.py"):
        for name in imports(path):
            if name.startswith("rlrun."):
                target = name.split(".")[1]
                assert target == part or target in BELOW[part] | KNOWN_TO_ALL, f"{path}: {name}"


@pytest.mark.parametrize("library", MAY_IMPORT)
def test_libraries_are_imported_in_their_place(library):
    users = {path.name for path in FILES for name in imports(path) if name.split(".")[0] == library}
    assert users <= MAY_IMPORT[library]
    assert users


def test_views_and_plots_are_imported_when_used():
    for path in FILES:
        late = {"wandb", "tensorboard", "matplotlib", "rich"} - (
            {"rich"} if path.name == "frame.py" else set()
        )
        assert not late & {name.split(".")[0] for name in imports(path, top_level=True)}, path


def test_nothing_is_pickled_or_evaluated():
    modules = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
    calls = re.compile(
        r"(?<!safetensors\.)torch\.(load|save)\(|np\.load\(|\b(eval|exec)\(|shell=True|"
        r"yaml\.(Unsafe|Full)?Loader|yaml\.(unsafe|full)_load"
    )
    for path in FILES:
        assert not modules & {name.split(".")[0] for name in imports(path)}, path
        assert not (found := calls.search(path.read_text())), f"{path}: {found}"


@pytest.mark.parametrize("words", [["--help"], ["list", "algos"], ["--version"]])
def test_answers_without_training_import_no_torch(words):
    script = (
        "import sys; from rlrun.cli import main; sys.argv[1:] = sys.argv[1:]; main(); "
        "print(sorted({'torch', 'gymnasium', 'wandb'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_files_fit_in_the_head():
    long = {path.name: n for path in FILES if (n := len(path.read_text().splitlines())) > 330}
    assert not long


def test_every_equation_of_the_readme_has_its_function_and_its_test():
    rows = re.findall(
        r"^\| .*?\| `([\w.]+)` \| `([\w/.]+)` \|$", (ROOT / "README.md").read_text(), re.M
    )
    assert len(rows) >= 8
    for function, test in rows:
        module, _, name = function.rpartition(".")
        source = (ROOT / (module.replace(".", "/") + ".py")).read_text()
        assert re.search(rf"^(def|class) {name}\b", source, re.M), function
        assert (ROOT / test).is_file(), test
        assert name in (ROOT / test).read_text(), f"{test} does not test {name}"
