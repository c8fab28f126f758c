"""Files that people write, each broken in one way: one line names the file or option and the remedy."""

import json

import pytest

from tests.cli.bad_input import DIGITS, TRAIN, Case, gray, link, pairs, refuse, stripes

BENCH = "--dataset digits --image_size 64 --max_eval_samples 2 --output_dir out"
MODEL_LINES = {
    "robustness": f"robustness --models {{world}}/ours --attacks pgd --eps 1 {BENCH}",
    "certify": f"certify --models {{world}}/certified {BENCH}",
    "evaluate": f"evaluate {{world}}/ours {BENCH}",
    "predict": "predict {world}/ours image.png --output_dir out",
    "export": "export {world}/ours --format stock --output_dir out",
    "report": "report {world}/runs --output out/report.html",
}
LINES = {
    "finetune-seg": f"finetune-seg {DIGITS} --output_dir out --config o.yaml",
    "finetune-cls": f"finetune-cls {DIGITS} --output_dir out --config o.yaml",
    "run": f"run --task segmentation {DIGITS} --output_dir out --config o.yaml",
    "matrix": "run --matrix o.yaml --output_dir out",
    **{name: f"{line} --config o.yaml" for name, line in MODEL_LINES.items()},
}
# Ten names of ten aliases of each other: 10^9 entries in 400 bytes.
LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(f'*{before}' for _ in range(9))}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
OPTION_FILES = {
    "laughs": (LAUGHS, ("aliases", "write plainly")),
    "merged laughs": ("a: &a {x: 1}\n" + LAUGHS.split("\n", 1)[1].replace("[", "[*a, "), ("aliases", "write plainly")),
    "itself": ("seed: &a [*a]\n", ("aliases", "write plainly")),
    "no anchor": ("seed: *a\n", ("undefined alias",)),
    "deep YAML": (f"seed: {'[' * 500}1{']' * 500}\n", ("nested too deeply",)),
    "deep JSON": (f'{{"seed": {"[" * 100000}1{"]" * 100000}}}', ("nested too deeply",)),
    "a key twice": ("seed: 1\noutput_dir: out\nseed: 2\n", ("'seed' twice", "line 3", "keep one")),
    "a key of JSON twice": ('{"seed": 1, "seed": 2}', ("'seed' twice", "keep one")),
    "a key that is true": ("seed: 1\non: 2\n", ("line 2", "put on into quotes")),
    "a key that is nothing": ("~: 2\n", ("line 1", "neither text nor a whole number")),
    "a key that is a list": ("? [a, b]\n: 2\n", ("line 1", "a list or mapping into quotes")),
    "a key that is a number": ("7: 2\n", ("7",)),
    "binary": (b"\x00\xff\xfe\x89PNG", ("no text in UTF-8",)),
    "binary of YAML": ("seed: !!binary aGFsbG8=\n", ("line 1", "kind binary")),
    "an object of Python": ("seed: !!python/object/apply:os.system ['touch owned']\n", ("line 1", "kind")),
    "a set": ("seed: !!set {a, b}\n", ("line 1", "kind set")),
    "a tab": ("seed:\n\t- 1\n", ("neither YAML nor JSON",)),
    "not closed": ("seed: [1, 2\n", ("neither YAML nor JSON",)),
    "two documents": ("seed: 1\n---\nseed: 2\n", ("neither YAML nor JSON",)),
    "a list": ("- seed\n", ("mapping",)),
    "a word": ("seed", ("mapping",)),
    "empty": ("", ("mapping",)),
    "gigabytes": (3 * 2**30, ("3072 MB",)),
    "a number of thousands of digits": (f"seed: {'9' * 5000}\n", ("o.yaml",)),
}


def option_file(name, kind):
    content, words = OPTION_FILES[kind]
    option = "--matrix" if name == "matrix" else "--config"
    where = (option,) if "a key that is a number" not in kind else ()
    return Case(
        f"{name}, {kind}", LINES[name], ("o.yaml", *where, *words), {"o.yaml": content, "image.png": stripes()}
    )


def option_place(name, kind, content, word):
    option = "--matrix" if name == "matrix" else "--config"
    return Case(f"{name}, {kind}", LINES[name], (option, "o.yaml", word), {"image.png": stripes(), **content})


SEGMENT = f"finetune-seg --dataset data {TRAIN} --output_dir out"
CLASSIFY = f"finetune-cls --dataset data {TRAIN} --output_dir out"
TABLES = {
    "empty": "",
    "blank": "\n \n",
    "binary": b"\x00\x01\xff\xfe",
    "a name twice": "sky\nroad\nsky\n",
    "an index twice": "1 sky\n1 road\n",
    "a gap": "1 sky\n3 road\n",
    "indices from 7": "7 sky\n8 road\n",
    "JSON twice": '{"0": "sky", "0": "road"}',
    "JSON deep": "[" * 100000,
    "JSON of numbers": "[[[1]]]",
    "JSON null": "[null, null]",
    "JSON broken": '{"0": "sky", ',
    "JSON digits": f'{{"{"9" * 5000}": "sky", "1": "road"}}',
    "JSON gap": '{"0": "sky", "2": "road"}',
    "JSON negative": '{"-1": "sky", "0": "road"}',
    "JSON empty": "{}",
}
OBJECT_INFO = "Idx,Ratio,Train,Val,Stuff,Name\n1,0.1,11,1,1,wall\n2,0.1,11,1,1,building\n"
OBJECT_INFOS = {
    "empty": "",
    "binary": b"\x89PNG\x00\xff",
    "header alone": OBJECT_INFO.splitlines()[0] + "\n",
    "an index twice": OBJECT_INFO + "2,0.1,1,1,1,sky\n",
    "a name twice": OBJECT_INFO + "3,0.1,1,1,1,wall\n",
    "a gap": OBJECT_INFO + "9,0.1,1,1,1,sky\n",
    "no name": OBJECT_INFO + "3,0.1,1,1,1,\n",
    "no index": OBJECT_INFO + "x,0.1,1,1,1,sky\n",
    "a line cut short": OBJECT_INFO + "3,0.1\n",
    "a web page": "<html><body>404</body></html>",
}
VOID = {
    "255 in both": (lambda: gray(255), ""),
    "an ignored label": (lambda: gray(9), "--ignore_label 9"),
    "zero is void": (lambda: gray(0), "--reduce_zero_label"),
}
MANY = ",".join(f"class{number}" for number in range(300))


def of_class_names(kind):
    return Case(
        f"--class_names, {kind}",
        f"{SEGMENT} --class_names names.{'json' if 'JSON' in kind else 'txt'}",
        ("--class_names",) if kind == "JSON empty" else ("--class_names names.",),
        {**pairs(1), "names.json": TABLES[kind], "names.txt": TABLES[kind]},
    )


def of_object_info(kind, root):
    name = "objectInfo150.txt"
    line = f"finetune-seg --dataset data --class_names data/{name} {TRAIN} --output_dir out"
    if root:
        line = line.replace(f" --class_names data/{name}", "")
    return Case(
        f"{name}, {kind}{', found' if root else ''}", line, (name,), {**pairs(1), f"data/{name}": OBJECT_INFOS[kind]}
    )


CASES = [
    *(option_file(name, kind) for name in ("finetune-seg", "matrix") for kind in OPTION_FILES),
    *(
        option_file(name, kind)
        for name in LINES
        for kind in ("laughs", "binary", "a key twice")
        if name not in ("finetune-seg", "matrix")
    ),
    *(option_place(name, "absent", {}, "cannot be read") for name in LINES),
    *(option_place(name, "a folder", {"o.yaml/x": "x"}, "cannot be read") for name in LINES),
    *(option_place(name, "a link to itself", {"o.yaml": link("o.yaml")}, "cannot be read") for name in LINES),
    *(of_class_names(kind) for kind in TABLES),
    *(of_object_info(kind, root) for kind in OBJECT_INFOS for root in (False,)),
    *(
        Case(f"all is void, {kind}", f"{SEGMENT} --class_names sky,road {options}", ("data", "void"), pairs(2, mask))
        for kind, (mask, options) in VOID.items()
    ),
    Case(
        "a token in a matrix",
        "run --matrix m.yaml --output_dir out",
        ("m.yaml, common", "hub_token", "hf auth login"),
        {"m.yaml": "tasks: [segmentation]\ncommon: {dataset: digits, hub_token: hf_secret}\n"},
    ),
    Case(
        "a cell above the matrix",
        "run --matrix m.yaml --output_dir out",
        ("m.yaml, cells", "'../up'", "letters"),
        {"m.yaml": "tasks: [segmentation]\ncells: {../up: {seed: 1}}\n"},
    ),
    Case(
        "300 classes",
        f"{SEGMENT} --class_names {MANY},class7",
        ("--class_names", "class7", "more than once"),
        pairs(1),
    ),
    Case(
        "300 values", f"{SEGMENT} --mask_values {','.join(map(str, range(300)))},7", ("--mask_values", "7"), pairs(1)
    ),
    Case(
        "300 weights",
        f"finetune-seg {DIGITS} --class_weights {','.join(['0.5'] * 300)}",
        ("--class_weights", "300 weights for 11"),
        {},
    ),
    Case("deep weights", f"finetune-seg {DIGITS} --class_weights '{'[' * 9000}'", ("--class_weights",), {}),
    Case("a weight twice", f'finetune-seg {DIGITS} --class_weights \'{{"a": 1, "a": 2}}\'', ("--class_weights",), {}),
    Case(
        "deep options",
        f"finetune-seg {DIGITS} --lipschitz_options '{'[' * 9000}'",
        ("--lipschitz_options", "too deeply", "JSON"),
        {},
    ),
    Case(
        "an option twice",
        f'finetune-seg {DIGITS} --lipschitz_options \'{json.dumps({"norm": "l1"})[:-1]}, "norm": "linf"}}\'',
        ("--lipschitz_options", "'norm' twice"),
        {},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_refused(case, tmp_path, world, monkeypatch, capsys):
    refuse(case, tmp_path, world, monkeypatch, capsys)
