#!/usr/bin/env bash
# Build the CPU image without a daemon (buildah, chroot isolation, a base made by debootstrap), start it, echo it and open its viewer.
# Needs root, buildah, debootstrap, npm and DCMTK's echoscu. Wheels and the viewer are fetched outside, with pip's and npm's own configuration.
set -euo pipefail
cd "$(dirname "$0")/.."
work=${DICOM_NODE_IMAGE_WORK:-build/image}
python=${PYTHON:-python3}
mkdir -p "$work/wheels"
work=$(realpath "$work")
export STORAGE_DRIVER=${STORAGE_DRIVER:-vfs} BUILDAH_ISOLATION=chroot
store=(--root "$work/store" --runroot "$work/run")
container=
# Without a process namespace (chroot isolation), what runs in the container is known by a variable of its environment.
mark=DICOM_NODE_IMAGE_RUN=$$
inside() {
    { grep -lsz "^$mark\$" /proc/[0-9]*/environ || true; } | cut -d / -f 3  # some end while it looks
}
# The node's roles end after buildah has ended: who does not wait for them leaves some behind.
stop() {
    local pids signal
    for signal in TERM KILL; do
        pids=$(inside)
        # shellcheck disable=SC2086
        kill -s "$signal" $pids 2>/dev/null || true
        for _ in $(seq 60); do
            [ -n "$(inside)" ] || return 0
            sleep 0.5
        done
    done
    echo "image: processes of the container do not end" >&2
    return 1
}
cleanup() {
    stop || true
    if [ -n "$container" ]; then
        buildah "${store[@]}" umount "$container" >/dev/null 2>&1 || true
        buildah "${store[@]}" rm "$container" >/dev/null 2>&1 || true
    fi
    buildah "${store[@]}" rm --all >/dev/null 2>&1 || true
    if [ -z "${KEEP_IMAGE:-}" ]; then
        buildah "${store[@]}" rmi --all --force >/dev/null 2>&1 || true
        rm -rf "$work"
    fi
}
trap cleanup EXIT

echo "image: wheels"
"$python" -m pip wheel -qq --wheel-dir "$work/wheels" --constraint constraints.txt "setuptools>=77,<90" wheel ".[postgresql]"

viewer=$("$python" -c 'import dicom_node.viewer as v; print(f"{v.PACKAGE}@{v.VERSION}")')
(cd "$work/wheels" && npm pack --silent --ignore-scripts "$viewer" >/dev/null && mv -- *.tgz viewer.tgz)

echo "image: base"
if ! buildah "${store[@]}" inspect --type image localhost/base >/dev/null 2>&1; then
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$work/base" >"$work/debootstrap.log" 2>&1 ||
        { tail -n 20 "$work/debootstrap.log" >&2; exit 1; }
    rm -rf "$work"/base/var/cache/apt/archives/*.deb "$work"/base/var/lib/apt/lists/*
    scratch=$(buildah "${store[@]}" from scratch)
    buildah "${store[@]}" add --quiet "$scratch" "$work/base" / >/dev/null
    buildah "${store[@]}" config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$scratch"
    buildah "${store[@]}" commit --quiet --rm "$scratch" localhost/base >/dev/null
    rm -rf "$work/base"
fi

echo "image: build"
buildah "${store[@]}" build --quiet --format docker --file docker/Dockerfile --target cpu \
    --build-arg BASE=localhost/base --build-arg PIP_OPTIONS="--no-index --find-links /wheels" --build-arg VIEWER=/wheels/viewer.tgz \
    --volume "$work/wheels:/wheels:ro" --tag localhost/dicom-node:cpu .

echo "image: start and echo"
container=$(buildah "${store[@]}" from localhost/dicom-node:cpu)
user=$(buildah "${store[@]}" inspect --format '{{.OCIv1.Config.User}}' "$container")
health=$(buildah "${store[@]}" inspect --format '{{.Docker.Config.Healthcheck}}' "$container")
[ "$user" = 10001:10001 ] || { echo "image: runs as '$user'" >&2; exit 1; }
[[ "$health" == *healthz* ]] || { echo "image: has no health check" >&2; exit 1; }
buildah "${store[@]}" run --env "$mark" "$container" -- dicom-node serve >"$work/serve.log" 2>&1 &
server=$!
healthy() { # the receiver may answer before the web role does
    /usr/bin/echoscu -aec DICOM_NODE 127.0.0.1 11112 >/dev/null 2>&1 &&
        buildah "${store[@]}" run "$container" -- python3 -c "import urllib.request as r
for path in ('healthz', 'viewer/'): r.urlopen('http://127.0.0.1:8042/' + path, timeout=4)" >/dev/null 2>&1
}
for _ in $(seq 120); do
    if healthy; then
        echo "image: echoed and healthy, with its viewer"
        stop
        wait "$server" || true
        exit 0
    fi
    kill -0 "$server" 2>/dev/null || break
    sleep 0.5
done
stop || true
tail -n 40 "$work/serve.log" >&2
echo "image: no echo from the started image" >&2
exit 1
