"""What the package never does, read from its source: run code from data, or read pickles that could."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = [
    path
    for folder in ("lrsegformer", "scripts", "examples", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
# Modules whose readers run what a file says.
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "subprocess.getoutput"}
UNSAFE_YAML = {"yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "yaml.UnsafeLoader", "yaml.Loader"}
LOADERS = {"torch.load": ("weights_only", True), "numpy.load": ("allow_pickle", False)}
ALIASES = {"np": "numpy"}


def name_of(node: ast.AST) -> str:
    """`a.b.c` of a chain of attributes; what is not one is empty."""
    if isinstance(node, ast.Name):
        return ALIASES.get(node.id, node.id)
    if isinstance(node, ast.Attribute) and (left := name_of(node.value)):
        return f"{left}.{node.attr}"
    return ""


def faults_of(source: str) -> list[str]:
    """A word on each thing in some source that this test is about."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [f"imports {each.name}" for each in node.names if each.name.split(".")[0] in UNSAFE_MODULES]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            found += [f"imports {module}"] * (module.split(".")[0] in UNSAFE_MODULES)
            found += [f"imports {each.name} by itself" for each in node.names if f"{module}.{each.name}" in LOADERS]
        elif isinstance(node, ast.Attribute) and name_of(node) in UNSAFE_YAML:
            found.append(f"uses {name_of(node)}")
        elif isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
            found += ["trusts remote code"] * (
                not isinstance(node.value, ast.Constant) or node.value.value is not False
            )
        elif isinstance(node, ast.keyword) and node.arg in ("shell", "allow_pickle"):
            found += [f"gives {node.arg}"] * (not isinstance(node.value, ast.Constant) or bool(node.value.value))
        elif isinstance(node, ast.Call):
            name = name_of(node.func)
            found += [f"calls {name}"] * (name in UNSAFE_CALLS)
            if name in LOADERS:
                option, safe = LOADERS[name]
                given = [word.value for word in node.keywords if word.arg == option]
                is_safe = any(isinstance(value, ast.Constant) and value.value is safe for value in given)
                found += [f"calls {name} without {option}={safe}"] * (not is_safe)
    return found


def test_the_source_runs_no_code_from_data():
    assert len(FILES) > 250
    faults = {str(path.relative_to(ROOT)): faults_of(path.read_text(encoding="utf-8")) for path in FILES}
    assert not {path: found for path, found in faults.items() if found}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "import torch\ntorch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=wanted)",
        "from torch import load",
        "np.load(path)",
        "numpy.load(path, allow_pickle=True)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "load_dataset(name, trust_remote_code=args.trust)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.unsafe_load(text)",
        "eval(text)",
        "os.system(text)",
        "subprocess.run(text, shell=True)",
    ],
)
def test_what_the_audit_finds(source):
    assert faults_of(source)


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path, weights_only=True)",
        "np.load(path, allow_pickle=False)",
        "model.eval()",
        "re.compile(pattern)",
        "yaml.safe_load(text)",
        "load(name, trust_remote_code=False)",
        "subprocess.run(words)",
    ],
)
def test_what_the_audit_lets_pass(source):
    assert not faults_of(source)
