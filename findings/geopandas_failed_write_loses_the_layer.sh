#!/usr/bin/env bash
# GeoPandas: to_file() that fails has already thrown the old layer of the GeoPackage away.
#
# Guess: a GeoPackage is an SQLite database, and a write that fails leaves the layer that was there, as a transaction does.
# Truth: the old layer is deleted before the first column is looked at. Two columns whose names differ in case only, a
#     column type that GDAL doesn't have, or a fid twice raise an error, and the layer's old rows are gone: the layer is
#     empty or not there at all. Other layers of the file stay. With mode="a" the same two columns are no error: the new
#     frame's `N` is stored in `n`.
# Versions: GeoPandas 1.2.0, pyogrio 0.13.0 (its GDAL is printed).
# Source: pyogrio/_io.pyx, create_ogr_dataset_layer() deletes the layer, and creates the fields of the new one after that,
#     with no transaction around both; GeoPandas' documentation of to_file() says that mode "w" overwrites.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check geopandas==1.2.0 pyogrio==0.13.0

venv/bin/python - <<'PY'
import geopandas as gpd
import pyogrio
from shapely.geometry import Point

print(f"GeoPandas {gpd.__version__}, pyogrio {pyogrio.__version__}, GDAL {'.'.join(map(str, pyogrio.__gdal_version__))}")


def frame(**columns):
    return gpd.GeoDataFrame(columns, geometry=[Point(0, 0), Point(1, 1)], crs=4326)


def rows(path):
    return {str(name): len(gpd.read_file(path, layer=name)) for name, _ in pyogrio.list_layers(path)}


def write(path, new, mode="w"):
    """What a write over a layer of two rows says, and the rows of the layers after it."""
    for layer in ("roads", "towns"):
        frame(n=[1, 2]).to_file(path, layer=layer)
    try:
        new.to_file(path, layer="roads", mode=mode)
        told = "success"
    except Exception as error:
        told = type(error).__name__
    return told, rows(path)


seen = {
    "two columns that differ in case": write("case.gpkg", frame(n=[3, 4], N=[5, 6])),
    "a column of complex numbers": write("type.gpkg", frame(n=[1 + 2j, 3j])),
    "a fid twice": write("fid.gpkg", frame(fid=[1, 1], n=[3, 4])),
    "two columns that differ in case, mode a": write("append.gpkg", frame(n=[3, 4], N=[5, 6]), mode="a"),
}
for name, (told, left) in seen.items():
    print(f"{name}: {told}, rows of the layers: {left}")
appended = list(gpd.read_file("append.gpkg", layer="roads")["n"])
print(f"the column n that was appended to: {appended}")
if (
    [told for told, _ in seen.values()] != ["FieldError", "NotImplementedError", "FeatureError", "success"]
    or any(left.get("roads", 0) != 0 or left["towns"] != 2 for _, left in list(seen.values())[:3])
    or appended != [1, 2, 5, 6]
):
    raise SystemExit("it is no longer so")
PY
