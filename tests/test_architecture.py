"""The shape of the package: imports point down, heavy libraries come late, nothing is pickled."""

import ast
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import rlrun

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "rlrun"
FILES = sorted(PACKAGE.rglob("*.py"))

# What each part may import of rlrun, besides itself. Parts that stand side by side see nothing
# of each other; `schema`, `annotations`, `spaces`, `space_codec` and `transfer` are known to all.
# At the top stand the two ways in, the command line and `api`, which see nothing of each other
# either.
BELOW = {
    "functional": set(),
    "policies": {"functional"},
    "optim": {"functional"},
    "envs": set(),
    "data": {"envs"},
    "algorithms": {"functional", "policies", "optim", "envs", "data"},
    "run": {"functional", "policies", "envs", "data", "algorithms"},
}
BELOW["api"] = {*BELOW, "build", "config", "evaluation", "stored"}
BELOW["sweeps"] = {"run", "build", "config", "explain", "process", "runs", "stored", "usage"}
KNOWN_TO_ALL = {"schema", "annotations", "spaces", "space_codec", "transfer", "__version__"}
MAY_IMPORT = {
    "hydra": {
        "cli.py",
        "config.py",
        "env_source.py",
        "explain.py",
        "planner.py",
        "plan.py",
        "plugins.py",
        "pool.py",
        "space.py",
    },
    "omegaconf": {"cli.py", "config.py", "env_source.py", "explain.py", "planner.py"},
    "ale_py": {"atari.py", "registry.py", "api/envs.py"},
    "wandb": {"loggers.py"},
    "tensorboard": {"loggers.py"},
    "matplotlib": {"plots.py", "report.py", "api/imitation/dataset.py"},
    "rich": {"console.py", "frame.py"},
    "safetensors": {"store.py"},
    "optuna": {"space.py", "trials.py", "search_report.py"},
}


def short(path):
    """The name of a file; with its folder if it belongs to `api`, which names as others do."""
    inside = path.relative_to(PACKAGE)
    return inside.as_posix() if inside.parts[0] == "api" else path.name


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
    for path in (PACKAGE / part).rglob("*.py"):
        for name in imports(path):
            if name.startswith("rlrun."):
                target = name.split(".")[1]
                assert target == part or target in BELOW[part] | KNOWN_TO_ALL, f"{path}: {name}"


def test_what_the_interface_for_programs_is_built_on_does_not_know_it():
    below = (BELOW["api"] | KNOWN_TO_ALL) - set(BELOW) - {"__version__"}
    for module in below:
        names = imports(PACKAGE / f"{module}.py")
        assert not [name for name in names if f"{name}.".startswith("rlrun.api.")], module


@pytest.mark.parametrize("library", MAY_IMPORT)
def test_libraries_are_imported_in_their_place(library):
    users = {short(path) for path in FILES if library in {n.split(".")[0] for n in imports(path)}}
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
        r"(?<!safetensors\.)torch\.(load|save)\(|\b(eval|exec)\(|shell=True|"
        r"yaml\.(Unsafe|Full)?Loader|yaml\.(unsafe|full)_load|\bnp\.lib\.format"
    )
    for path in FILES:
        assert not modules & {name.split(".")[0] for name in imports(path)}, path
        assert not (found := calls.search(path.read_text())), f"{path}: {found}"


def without_pickle(call):
    """Whether a call says `allow_pickle=False` itself, and no `**` could say otherwise."""
    said = {keyword.arg: getattr(keyword.value, "value", None) for keyword in call.keywords}
    return said.get("allow_pickle", True) is False and None not in said


def test_arrays_are_read_without_pickle():
    """And by the interface for programs only, whose users bring files of arrays."""
    readers = set()
    for path in FILES:
        nodes = list(ast.walk(ast.parse(path.read_text())))
        for node in nodes:
            if isinstance(node, ast.ImportFrom) and node.module == "numpy":
                assert "load" not in {alias.name for alias in node.names}, path
        named = [n for n in nodes if isinstance(n, ast.Attribute) and ast.unparse(n) == "np.load"]
        calls = [n for n in nodes if isinstance(n, ast.Call) and n.func in named]
        assert len(calls) == len(named), f"{path}: np.load is handed on"
        assert all(without_pickle(call) for call in calls), path
        readers |= {short(path)} if calls else set()
    assert readers
    assert all(name.startswith("api/") for name in readers), readers


@pytest.mark.parametrize(
    "words", [["--help"], ["list", "algos"], ["--version"], ["sweep", "status", "none-such"]]
)
def test_answers_without_training_import_no_torch(words):
    script = (
        "import sys; from rlrun.cli import main; sys.argv[1:] = sys.argv[1:]; main(); "
        "print(sorted({'torch', 'gymnasium', 'wandb'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def run_python(script):
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_the_package_is_imported_without_what_it_needs_later():
    heavy = "print(sorted({'torch', 'gymnasium', 'numpy', 'hydra', 'rich'} & set(sys.modules)))"
    assert run_python(f"import sys, rlrun; rlrun.__version__; {heavy}") == "[]"
    assert run_python(f"import sys; from rlrun import UserError; {heavy}") == "[]"
    assert "'torch'" in run_python(f"import sys; from rlrun import ACER; {heavy}")


def test_every_public_name_is_there():
    namespace = {}
    exec("from rlrun import *", namespace)
    del namespace["__builtins__"]
    assert set(namespace) == set(rlrun.__all__)
    assert set(rlrun.__all__) == {*rlrun._HOMES, *rlrun._POLICIES, "__version__"}
    assert sorted(rlrun.__all__) == rlrun.__all__
    for name in rlrun._POLICIES:
        assert namespace[name] == name
    for name, home in rlrun._HOMES.items():
        assert namespace[name] is getattr(import_module(f"rlrun.{home}"), name)
    with pytest.raises(AttributeError, match="'rlrun' has no attribute 'ACRE'"):
        rlrun.ACRE  # noqa: B018 - reading it is what fails


def test_type_checkers_see_the_same_public_names():
    """The imports that are for them only are those that happen on first use."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        alias.name: node.module.removeprefix("rlrun.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == rlrun._HOMES
    declared = [node.target.id for node in block.body if isinstance(node, ast.AnnAssign)]
    assert sorted(declared) == sorted(rlrun._POLICIES)


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
