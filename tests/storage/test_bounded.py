import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

from scoresde.cli import conf_dir
from scoresde.storage.bounded import (
    CheckpointError,
    DamagedFile,
    Limits,
    parse_json,
    read_csv,
    read_file,
    read_json,
    read_json_lines,
)
from scoresde.storage.bounded_tensors import read_tensor_header
from scoresde.storage.bounded_yaml import parse_yaml, read_yaml

FILE = Path("x.yaml")
SMALL = Limits(size=100, values=20, depth=5)


def refused(call: Any, *arguments: Any) -> str:
    """The message of a file that is refused, at once and in one line."""
    began = time.perf_counter()
    with pytest.raises(DamagedFile) as error:
        call(*arguments)
    assert time.perf_counter() - began < 2
    assert "\n" not in str(error.value)
    return str(error.value)


# -- files ----------------------------------------------------------------------------------------------


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"a" * 10)
    assert read_file(path, 10) == b"a" * 10
    path.write_bytes(b"a" * 11)
    assert refused(read_file, path, 10) == f"{path} has 11 bytes, the limit for such a file is 10"


def test_only_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # to open it would wait for a writer
    for read in (read_file, read_yaml, read_json, read_json_lines, read_csv, read_tensor_header):
        with pytest.raises(CheckpointError, match="is a directory, expected a file: move it away"):
            read(tmp_path)
        with pytest.raises(CheckpointError, match="pipe is a named pipe, expected a file: move it away"):
            read(tmp_path / "pipe")
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "missing")


# -- YAML -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(conf_dir().rglob("*.yaml")), ids=lambda p: str(p.relative_to(conf_dir())))
def test_yaml_is_read_as_omegaconf_reads_it(path: Path) -> None:
    expected = OmegaConf.to_container(OmegaConf.load(path))
    assert repr(read_yaml(path) or {}) == repr(expected)


@pytest.mark.parametrize(
    "value",
    ["1", "1.0", "yes", "no", "on", "off", "null", "~", "1e-5", "1e5", ".inf", "0x1f", "010", "1_000", "a: b", "- x",
     "#", "&a", "*a", "!x", "<<", "'", '"', "", " ", "1:30", "2020-01-01", "é", "\x07", "line\nline", "$", 7, -3, 2.5,
     1e-9, 1e300, float("inf"), True, False, None, [], {}, [[1], {"a": [None]}], {1: 2, False: "x", 2.5: []}],
)  # fmt: skip
def test_values_written_by_omegaconf_come_back(value: Any) -> None:
    text = OmegaConf.to_yaml(OmegaConf.create({"value": value}))
    assert repr(parse_yaml(text.encode(), FILE)) == repr({"value": value})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x 1", "an alias or anchor"),
        ("a: &x [1]\nb: *x", "an alias or anchor (&, *) in line 1"),
        ("a: 1\nb: !!str 5", "the tag tag:yaml.org,2002:str in line 2"),
        ("a: !thing {b: 1}", "the tag !thing"),
        ("a: 1\n<<: {b: 2}", "a merge key (<<) in line 2"),
        ("a: 1\na: 2", "the key 'a' twice in line 2"),
        ("? [1]\n: 2", "a key that is no string, number or boolean"),
        ("~: 2", "a key that is no string, number or boolean"),
        ("a: 1\n---\nb: 2", "more than one document"),
        ("a: 99999999999999999999", "an integer of more than 64 bits"),
        ("a: " + 5000 * "9", "an integer of more than 64 bits"),
        ("a: [1, 2", "cannot be read as YAML"),
        ("a: \x00", "cannot be read as YAML"),
        (b"\xff\xfe\x00x", "cannot be read as YAML: invalid start byte at byte 0"),
        ("[" * 5000, "nested more than 50 levels deep, the limit"),
        ("- " * 5000, "nested more than 50 levels deep, the limit"),
        ("- 1\n" * 30_000, "more than 20,000 values, the limit"),
    ],
    ids=range(17),
)
def test_yaml_of_more_than_plain_values_is_refused(text: str | bytes, message: str) -> None:
    assert message in refused(parse_yaml, text if isinstance(text, bytes) else text.encode(), FILE)


def test_a_large_yaml_file_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(b"#" * 1_000_001)
    assert refused(read_yaml, path) == f"{path} has 1,000,001 bytes, the limit for such a file is 1,000,000"


# -- JSON -----------------------------------------------------------------------------------------------


def test_a_kind_of_json_can_be_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("[1]")
    assert read_json(path) == read_json(path, list) == [1]
    assert refused(read_json, path, dict) == f"{path} holds no JSON object"


def test_json_keeps_its_values() -> None:
    value = {"a": [1, 2.5, None, True, "x, y: [z] {}"], "b": {"c": float("inf")}, "d": 10**30}
    assert parse_json(json.dumps(value).encode(), FILE) == value
    deep = {"text": "[" * 300}
    assert parse_json(json.dumps(deep).encode(), FILE) == deep


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", "cannot be read as JSON"),
        (b"", "cannot be read as JSON"),
        (b"\xff", "cannot be read as JSON: invalid start byte at byte 0"),
        (b"9" * 10_000, "cannot be read as JSON"),
        (b"[" * 200_000, "nested more than 50 levels deep, the limit"),
        (b'{"a":' * 200_000, "nested more than 50 levels deep, the limit"),
        (b"[" + b"0," * 1_000_000 + b"0]", "more than 1,000,000 values, the limit"),
    ],
    ids=range(7),
)
def test_json_within_limits(text: bytes, message: str) -> None:
    assert message in refused(parse_json, text, FILE)


def test_lines_count_with_their_end(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n\n{"step": \n[1]\n\xff\n{"step": 2}\n' + b"[" * 60 + b'\n{"step": 3}')
    assert read_json_lines(path) == ([{"step": 1}, {"step": 2}], 4)
    path.write_bytes(b"[1,2,3]\n" * 10)
    assert "more than 20 values, the limit" in refused(read_json_lines, path, SMALL)
    path.write_bytes(b" \n" * 51)
    assert "102 bytes, the limit for such a file is 100" in refused(read_json_lines, path, SMALL)


# -- CSV ------------------------------------------------------------------------------------------------


def test_rows_count_with_their_end(tmp_path: Path) -> None:
    path = tmp_path / "likelihood-test.csv"
    path.write_text('index,nats\n0,"a\nb"\n1,3.8555e-05\n2,3.8555')
    assert read_csv(path) == [["index", "nats"], ["0", "a\nb"], ["1", "3.8555e-05"]]
    path.write_bytes(b"")
    assert read_csv(path) == []


def test_csv_within_limits(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b",,,,,,,,,,\n" * 2)
    assert "more than 20 values, the limit" in refused(read_csv, path, SMALL)
    path.write_bytes(b"1,2\n3\n" + b"a" * 200_000 + b"\n4\n")  # longer than a field may be
    assert read_csv(path) == [["1", "2"], ["3"]]


# -- safetensors ----------------------------------------------------------------------------------------


def header(tensors: Any, length: int | None = None, data: int = 0) -> bytes:
    """A file of a header and some zeros."""
    text = json.dumps(tensors).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + bytes(data)


def entry(shape: Any, begin: Any, end: Any, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_declared_types_and_shapes(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    kinds = {"F32": torch.float32, "F64": torch.float64, "I64": torch.int64, "BF16": torch.bfloat16, "BOOL": torch.bool}
    save_file({k: torch.zeros(2, 3, dtype=v) for k, v in kinds.items()} | {"empty": torch.zeros(0)}, path, {"a": "b"})
    assert read_tensor_header(path) == ({**{k: (k, (2, 3)) for k in kinds}, "empty": ("F32", (0,))}, {"a": "b"})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "truncated, or of another format"),
        (b"\x00" * 20, "truncated, or of another format"),
        (header({}, length=2**60), "truncated, or of another format"),
        (header([1, 2]), "truncated, or of another format"),
        (header({"x": 1}), "what it says of the tensor 'x'"),
        (header({"x": entry([2], 0, 4)}, data=4), "what it says of the tensor 'x'"),
        (header({"x": entry([-1], 0, 4)}, data=4), "what it says of the tensor 'x'"),
        (header({"x": entry([1], 4, 0)}, data=4), "what it says of the tensor 'x'"),
        (header({"x": entry([True], 0, 4)}, data=4), "what it says of the tensor 'x'"),
        (header({"x": entry([1], 0, 4, "F128")}, data=4), "what it says of the tensor 'x'"),
        (header({"x": entry([1] * 9, 0, 4)}, data=4), "what it says of the tensor 'x'"),
        (header({"x": entry([2**61], 0, 2**63)}), "what it says of the tensor 'x'"),
        (header({"x": entry([10**6], 0, 4 * 10**6)}, data=8), "its tensors take 4,000,000 bytes and it has 8"),
        (header({"x": entry([1], 0, 4)}, data=5), "its tensors take 4 bytes and it has 5"),
        (header({"__metadata__": {"a": 1}}), "truncated, or of another format"),
        (header({"x": [[[[]]]] * 300_000}, data=1), "more than 1,000,000 values, the limit"),
        (
            (17 * 10**6).to_bytes(8, "little") + bytes(18 * 10**6),
            "a header of 17,000,000 bytes, the limit is 16,000,000",
        ),
    ],
    ids=range(17),
)
def test_declared_sizes_are_held_against_the_file(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert message in refused(read_tensor_header, path)


def test_a_file_of_more_than_the_memory_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"x": torch.zeros(1000)}, path)
    monkeypatch.setenv("SCORESDE_MEMORY", "0.000001")
    with pytest.raises(ValueError, match="model.safetensors would take .* of memory, the limit is .* SCORESDE_MEMORY="):
        read_tensor_header(path)
