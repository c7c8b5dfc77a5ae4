#!/bin/bash
# A Docker engine for the end-to-end tests, with the images they need, on a machine that has none and no registry.
#   docker_engine.sh start    uses the engine that answers, or installs and starts one; builds what is missing
#   docker_engine.sh stop     stops the engine if start started it; its images stay for the next time
#   docker_engine.sh pid      the engine's process, if start started it
#   docker_engine.sh clean    stop, and removes the images with the engine's data
set -euo pipefail

PROJECT=$(cd "$(dirname "$0")/../.." && pwd)
ENGINE=${HF2TRITON_ENGINE_DIR:-/tmp/docker-engine}
PID_FILE=$ENGINE/dockerd.pid
TARGET=$PROJECT/include/targets/openvino
BASE=debian:bookworm-slim
TORCH=$(sed -n 's/^torch==\([0-9.]*\).*/\1/p' "$TARGET/requirements.in")

say() { echo "== $*" >&2; }
fail() { echo "error: $*" >&2; exit 1; }
answers() { docker version >/dev/null 2>&1; }
has_image() { docker image inspect "$1" >/dev/null 2>&1; }
# The pid file may be older than the machine's last start.
is_ours() { [ -f "$PID_FILE" ] && tr '\0' ' ' <"/proc/$(cat "$PID_FILE")/cmdline" 2>/dev/null | grep -q -- "$PID_FILE"; }

install_tools() {
    local missing=()
    command -v dockerd >/dev/null || missing+=(docker.io)
    command -v debootstrap >/dev/null || missing+=(debootstrap)
    [ ${#missing[@]} -eq 0 ] && return
    [ "$(id -u)" = 0 ] || fail "run as root once: apt-get install ${missing[*]}"
    say "installing ${missing[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" iptables >/dev/null
}

# dockerd accepts device requests if it finds NVIDIA's hook when it starts; this one gives a container no GPU.
write_hook() {
    mkdir -p "$ENGINE/bin"
    printf '#!/bin/sh\nexit 0\n' >"$ENGINE/bin/nvidia-container-runtime-hook"
    chmod 755 "$ENGINE/bin/nvidia-container-runtime-hook"
}

start_engine() {
    [ "$(id -u)" = 0 ] || fail "no Docker engine answers, and only root can start one"
    write_hook
    is_ours || rm -f "$PID_FILE"
    say "starting dockerd, data in $ENGINE/data, log in $ENGINE/dockerd.log"
    # shellcheck disable=SC2086 - a list of flags
    PATH=$ENGINE/bin:$PATH setsid dockerd --data-root "$ENGINE/data" --pidfile "$PID_FILE" \
        ${HF2TRITON_DOCKERD_FLAGS:-} </dev/null >>"$ENGINE/dockerd.log" 2>&1 &
    for _ in $(seq 60); do
        answers && return
        sleep 1
    done
    tail -n 20 "$ENGINE/dockerd.log" >&2
    fail "dockerd did not come up within 60 s"
}

build_base() {
    has_image "$BASE" && return
    say "image $BASE"
    docker pull -q "$BASE" >/dev/null 2>&1 && return
    [ "$(id -u)" = 0 ] || fail "$BASE cannot be pulled, and only root can build it with debootstrap"
    local root
    root=$(mktemp -d "$ENGINE/base.XXXXXX")
    debootstrap --variant=minbase --include=ca-certificates bookworm "$root" >"$ENGINE/debootstrap.log" ||
        { tail -n 20 "$ENGINE/debootstrap.log" >&2; fail "debootstrap failed"; }
    rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/doc/* "$root"/usr/share/man/*
    tar -C "$root" -c . | docker import -c 'CMD ["bash"]' - "$BASE" >/dev/null
    rm -rf "$root"
}

# Debian's registry of images, for the tests of a private one: unpacked, so that no service is started.
unpack_registry() {
    [ -x "$ENGINE/registry/usr/bin/docker-registry" ] && return
    if command -v docker-registry >/dev/null || ! command -v apt-get >/dev/null; then return; fi
    say "unpacking docker-registry"
    local folder
    folder=$(mktemp -d "$ENGINE/registry.XXXXXX")
    if (cd "$folder" && apt-get download -qq docker-registry >/dev/null 2>&1 && dpkg -x docker-registry_*.deb unpacked); then
        rm -rf "$ENGINE/registry" && mv "$folder/unpacked" "$ENGINE/registry"
    else
        say "no docker-registry: the tests of a private registry will be skipped"
    fi
    rm -rf "$folder"
}

# What this machine needs to reach a package index; on a machine that needs nothing the folders stay empty.
gather_extra() {
    mkdir -p "$1/ca-certificates" "$1/wheels"
    cp /usr/local/share/ca-certificates/*.crt "$1/ca-certificates/" 2>/dev/null || true
    python3 -m pip download -q --no-deps --only-binary :all: --python-version 3.11 -d "$1/wheels" "torch==$TORCH" ||
        say "no torch wheel from this machine's pip; the build looks for its own"
    # A CUDA build is several times as large, and pip in the image would take it instead of PyTorch's CPU index.
    find "$1/wheels" -name 'torch-*' ! -name '*+cpu*' -delete
}

build_target() {
    local image context
    image=$(python3 "$TARGET/image.py")
    has_image "$image" && return
    say "image $image"
    context=$(mktemp -d "$ENGINE/context.XXXXXX")
    cp "$TARGET/Dockerfile" "$TARGET/.dockerignore" "$TARGET"/requirements* "$context/"
    gather_extra "$context/extra"
    docker buildx version >/dev/null 2>&1 || export DOCKER_BUILDKIT=0
    docker build --tag "$image" --build-arg PIP_INDEX_URL="$(python3 -m pip config get global.index-url 2>/dev/null)" \
        "$context"
    rm -rf "$context"
}

start() {
    mkdir -p "$ENGINE"
    install_tools
    answers || start_engine
    unpack_registry
    build_base
    build_target
    docker image ls
}

stop() {
    is_ours || { say "no engine of ours runs"; return; }
    local pid
    pid=$(cat "$PID_FILE")
    kill "$pid"
    for _ in $(seq 60); do
        [ -d "/proc/$pid" ] || { say "dockerd stopped"; return; }
        sleep 0.5
    done
    fail "dockerd (pid $pid) does not stop"
}

case "${1:-}" in
    start) start ;;
    stop) stop ;;
    pid) is_ours && cat "$PID_FILE" ;;
    clean) stop; rm -rf "$ENGINE" ;;
    *) sed -n '2,7p' "$0"; exit 64 ;;
esac
