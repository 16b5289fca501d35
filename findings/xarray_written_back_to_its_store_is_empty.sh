#!/usr/bin/env bash
# xarray: a dataset that is written back to the Zarr store it was opened from is all fill values afterwards, with success.
#
# Guess: `dataset = open_zarr(path)`, a change, `dataset.to_zarr(path, mode="w")` stores the dataset; or is refused, since it
#     is still being read from there; or fails and leaves the data.
# Truth: opening reads nothing yet. to_zarr() in mode "w" removes what is in the store and makes the new arrays, and then
#     reads the values, out of the arrays it has just made: zeros or NaN, without an error or a warning, whether dask is
#     in use or not. What was changed and is in memory is stored well, which hides the rest. load() beforehand, or another
#     store and a rename, is the way.
# Versions: xarray 2026.9.0, zarr 3.1.6, dask 2026.8.0.
# Source: pydata/xarray issue 11159 (closed, as a usage question) and issue 6456. The documentation of to_zarr says that "w"
#     overwrites.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check xarray==2026.9.0 zarr==3.1.6 dask==2026.8.0

venv/bin/python - <<'PY'
import warnings

import dask
import numpy
import xarray
import zarr

warnings.simplefilter("ignore")
print(f"xarray {xarray.__version__}, zarr {zarr.__version__}, dask {dask.__version__}")


def stored(path):
    with xarray.open_zarr(path, chunks=None) as dataset:
        return dataset["wind"].values.tolist(), dataset["rain"].values.tolist()


def written_back(path, load, **options):
    values = numpy.array([1.5, 2.5, 3.5])
    xarray.Dataset({"wind": ("x", values), "rain": ("x", values)}).to_zarr(path, mode="w")
    dataset = xarray.open_zarr(path, **options)
    if load:
        dataset.load()
    dataset["rain"] = ("x", dataset["rain"].values * 10)
    dataset.to_zarr(path, mode="w")
    return stored(path)


seen = {
    "without dask": written_back("plain.zarr", False, chunks=None),
    "with dask": written_back("dask.zarr", False),
    "loaded first": written_back("loaded.zarr", True, chunks=None),
}
for name, (wind, rain) in seen.items():
    print(f"{name}: wind, not touched: {wind}; rain, times 10: {rain}")
wind, rain = [1.5, 2.5, 3.5], [15.0, 25.0, 35.0]
if seen["loaded first"] != (wind, rain):
    raise SystemExit("load() no longer helps")
for name in ("without dask", "with dask"):
    if seen[name][1] != rain or any(value in wind for value in seen[name][0]):
        raise SystemExit("it is no longer so")
PY
