"""Formats that are not read, and what makes files of them that are: a line of Python or of the shell each."""

from pathlib import Path

__all__ = ["way_out"]

# ruff: noqa: E501
_WAYS = {
    ".mdb": """python -c "import lmdb, os; os.makedirs('out'); [open('out/%06d.png' % i, 'wb').write(v) for i, (k, v) in enumerate(lmdb.open('{path}', readonly=True, lock=False).begin().cursor())]" writes the encoded pictures of an LMDB as files""",
    ".tfrecord": """python -c "import os, tensorflow as tf; os.makedirs('out'); [open('out/%06d.png' % i, 'wb').write(tf.train.Example.FromString(r.numpy()).features.feature['image'].bytes_list.value[0]) for i, r in enumerate(tf.data.TFRecordDataset('{path}'))]" writes the encoded pictures of a TFRecord as files""",
    ".pkl": "a pickle can run code when it is loaded; if you trust it, numpy.savez('x.npz', x=..., y=...) of what pickle.load gives",
    ".arrow": """python -c "import datasets; datasets.load_from_disk('{folder}').to_parquet('x.parquet')" writes what data=parquet reads""",
    ".feather": """python -c "import pandas; pandas.read_feather('{path}').to_parquet('x.parquet')" writes what data=table reads""",
    ".xlsx": """python -c "import pandas; pandas.read_excel('{path}').to_csv('x.csv', index=False)" writes what data=table reads""",
    ".json": """python -c "import pandas; pandas.read_json('{path}').to_csv('x.csv', index=False)" writes what data=table reads""",
    ".jsonl": """python -c "import pandas; pandas.read_json('{path}', lines=True).to_csv('x.csv', index=False)" writes what data=table reads""",
    ".zarr": """python -c "import numpy, zarr; numpy.save('x.npy', zarr.open('{path}')[:])" writes what data=npy reads""",
    ".mp4": "ffmpeg -i '{path}' out/%06d.png writes its frames as pictures, which data=image_folder reads",
    ".nii": """python -c "import nibabel, numpy; numpy.save('x.npy', nibabel.load('{path}').get_fdata())" writes what data=npy reads""",
    ".fits": """python -c "import numpy; from astropy.io import fits; numpy.save('x.npy', fits.getdata('{path}'))" writes what data=npy reads""",
    ".wav": """python -c "import numpy; from scipy.io import wavfile; numpy.save('x.npy', wavfile.read('{path}')[1].reshape(-1, 1, 16384))" writes what data=npy reads""",
    ".rar": "unpack it, or pack it anew as a zip",
}
_SAME = {
    ".lmdb": ".mdb",
    ".tfrecords": ".tfrecord",
    ".pickle": ".pkl",
    ".xls": ".xlsx",
    ".ndjson": ".jsonl",
    ".avi": ".mp4",
    ".mov": ".mp4",
    ".webm": ".mp4",
    ".fit": ".fits",
    ".7z": ".rar",
}


def way_out(path: Path | str) -> str | None:
    """The way out for a file of a format that is not read, by its suffix; None where none is known.

    Args:
        path: The file.
    """
    place = Path(path)
    suffixes = [suffix.lower() for suffix in place.suffixes]
    if any(suffix.startswith((".tfrecord", ".tfrecords")) for suffix in suffixes):  # x.tfrecord-00000-of-00010
        suffixes = [".tfrecord"]
    known = next((_SAME.get(s, s) for s in suffixes if _SAME.get(s, s) in _WAYS), None)
    if known is None:
        return None
    # An LMDB is opened by its folder.
    return _WAYS[known].format(path=place.parent if place.suffix == ".mdb" else place, folder=place.parent)
