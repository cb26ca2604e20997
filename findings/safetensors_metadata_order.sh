#!/usr/bin/env bash
# The same tensors and metadata, saved twice by safetensors, are often two different files.
#
# Expected: a format made of a sorted header and raw bytes is written the same way each time, so that a hash of the
#   file tells whether two models are the same.
# Happens: the tensors are sorted, but the entries of the metadata are written in an order that changes from call to
#   call (a randomly seeded hash map), within one process and from process to process. With two entries about half of
#   the files differ, with six nearly all.
# Versions: safetensors 0.5.3 and 0.8.0, with numpy 2.4.6.
# Source: `Metadata` in safetensors/src/tensor.rs keeps the entries in a Rust HashMap, which is seeded at random.
# What to do: never use a hash of the file as the identity of a model; hash names, dtypes, shapes and bytes of the
#   tensors in the order of their names. To write the same bytes each time keep the metadata in a single entry.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
for version in 0.5.3 0.8.0; do
  python3 -m venv "env-$version"
  "env-$version/bin/pip" install --quiet "safetensors==$version" numpy==2.4.6
  "env-$version/bin/python" - <<'PYTHON'
import hashlib

import numpy
import safetensors
from safetensors.numpy import load, save

tensors = {"weight": numpy.arange(6.0).reshape(2, 3), "bias": numpy.zeros(2)}
print("safetensors", safetensors.__version__, "numpy", numpy.__version__)
for count in (0, 1, 2, 6):
    metadata = {f"key{i}": str(i) for i in range(count)}
    files = [save(tensors, metadata or None) for _ in range(200)]
    different = len({hashlib.sha256(file).hexdigest() for file in files})
    print(f"metadata of {count} entries: 200 files, {different} different contents")
    assert all((load(file)["weight"] == tensors["weight"]).all() for file in files)
    assert (different == 1) == (count < 2), "the order of metadata is not what it was: see the head of this file"
PYTHON
done
