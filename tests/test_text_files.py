"""Option files as people write them are taken as YAML has them; what is more than plain is refused."""

import json
import time

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lrsegformer.text_files import MOST_ENTRIES, is_file, parse_json, parse_yaml, read_mapping, read_text

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(PLAIN)
def test_what_yaml_and_json_write_is_read(content):
    assert parse_yaml(yaml.safe_dump(content)) == content
    assert parse_json(json.dumps(content)) == content


def test_aliases_and_merged_keys_are_taken_while_they_are_few():
    text = "common: &a {lr: 0.1, seeds: [1, 2]}\ncells:\n  x: {<<: *a, lr: 0.2}\n  y: *a\n"
    assert parse_yaml(text) == yaml.safe_load(text)
    assert parse_yaml("day: 2020-01-01\nvalues: {0: road, 1: car}") == {
        "day": "2020-01-01",
        "values": {0: "road", 1: "car"},
    }
    few = f"a: &a [{', '.join('x' * 1 for _ in range(100))}]\nb: [{', '.join('*a' for _ in range(900))}]"
    assert len(parse_yaml(few)["b"]) == 900
    with pytest.raises(ValueError, match=f"more than {MOST_ENTRIES} entries .*line 2"):
        parse_yaml(few.replace("b: [", "b: [" + "*a, " * 200))


def test_laughs_take_no_time():
    levels = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 30))
    began = time.monotonic()
    with pytest.raises(ValueError, match="entries with its aliases"):
        parse_yaml("a0: &a0 [x]\n" + levels)
    assert time.monotonic() - began < 5


def test_files(tmp_path):
    (tmp_path / "marked.yaml").write_bytes("\ufeffseed: 1\n".encode())
    assert read_mapping(tmp_path / "marked.yaml") == {"seed": 1}
    assert is_file(str(tmp_path / "marked.yaml"))
    assert not any(map(is_file, ("a," * 5000, "a\0b", str(tmp_path), "/dev/zero", "~nobody/at/all")))
    with open(tmp_path / "large", "wb") as file:
        file.truncate(2**40)
    for path, reason in (
        (tmp_path / "large", "1048576 MB"),
        ("/dev/zero", "no ordinary file"),
        (tmp_path, "directory"),
    ):
        with pytest.raises(ValueError, match=reason):
            read_text(path)
