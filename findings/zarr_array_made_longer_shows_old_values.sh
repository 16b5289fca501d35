#!/usr/bin/env bash
# zarr: what an array held before it was made shorter is back when it is made longer.
#
# Guess: resize() to fewer elements discards the others; after a resize() to more, and in what append() leaves unwritten,
#     there is the fill value, as in HDF5 (h5py).
# Truth: chunks wholly outside are deleted, but a chunk on the edge is kept as it is, old values behind the edge included,
#     and these are elements of the array again once it is made longer. How many come back depends on the sizes of the
#     chunks: of a store with big chunks all. Whoever shortens an array to be rid of data, and then extends it to write
#     it in parts, reads some of the old data as if written.
# Versions: zarr 3.1.6, h5py 3.16.0.
# Source: zarr-python issue 1017 (open); the specification's note on resizing leaves it to the implementation.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check zarr==3.1.6 h5py==3.16.0

venv/bin/python - <<'PY'
import h5py
import numpy
import zarr

print(f"zarr {zarr.__version__}, h5py {h5py.__version__}")


def shortened_and_longer(array):
    array[:] = numpy.arange(1, 11)
    array.resize((5,))
    short = array[:].tolist()
    array.resize((10,))
    return short, array[:].tolist()


seen = {}
for chunk in (4, 10):
    array = zarr.create_array(f"chunks_{chunk}.zarr", shape=(10,), chunks=(chunk,), dtype="i4", fill_value=0)
    seen[f"zarr, chunks of {chunk}"] = shortened_and_longer(array)
with h5py.File("a.h5", "w") as file:
    data = file.create_dataset("a", shape=(10,), chunks=(4,), maxshape=(None,), dtype="i4", fillvalue=0)
    seen["HDF5, chunks of 4"] = shortened_and_longer(data)
for name, (short, longer) in seen.items():
    print(f"{name}: 1 to 10, shortened to {short}, longer again: {longer}")
if [longer for _, longer in seen.values()] != [
    [1, 2, 3, 4, 5, 6, 7, 8, 0, 0],
    [1, 2, 3, 4, 5, 6, 7, 8, 9, 10],
    [1, 2, 3, 4, 5, 0, 0, 0, 0, 0],
]:
    raise SystemExit("it is no longer so")
PY
