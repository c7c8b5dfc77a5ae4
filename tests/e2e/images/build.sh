#!/bin/bash
# What test_compose.py needs besides the engine, where no registry can be reached: stand-ins for the images of PostgreSQL,
# Redis and Prometheus, and Docker Compose. Prints the directory for DOCKER_CONFIG in which Docker finds its Compose plugin.
set -euo pipefail

HERE=$(cd "$(dirname "$0")" && pwd)
TOOLS=${HF2TRITON_ENGINE_DIR:-/tmp/docker-engine}/compose
KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

say() { echo "== $*" >&2; }
has_compose() { docker compose version >/dev/null 2>&1; }
from_apt() { apt-get install -y -qq --no-install-recommends "$1" >/dev/null 2>&1 && has_compose; }

# Debian 12 has no Compose 2: Debian 13's needs no more than Debian 12's C library. Only the plugin is taken out of it.
from_debian_13() {
    mkdir -p "$TOOLS"/{lists/partial,cache/archives/partial,cli-plugins}
    echo "deb [signed-by=$KEYRING] http://deb.debian.org/debian trixie main" >"$TOOLS/sources.list"
    local options=(-qq -o "Dir::Etc::sourcelist=$TOOLS/sources.list" -o Dir::Etc::sourceparts=-
        -o "Dir::State::lists=$TOOLS/lists" -o "Dir::Cache=$TOOLS/cache" -o APT::Sandbox::User=root)
    apt-get "${options[@]}" update
    (cd "$TOOLS" && apt-get "${options[@]}" download docker-compose)
    dpkg-deb --fsys-tarfile "$TOOLS"/docker-compose_*.deb |
        tar -x -C "$TOOLS/cli-plugins" --strip-components=5 ./usr/libexec/docker/cli-plugins/docker-compose
    rm -rf "$TOOLS"/{lists,cache,*.deb}
}

DOCKER_CONFIG=${DOCKER_CONFIG:-$HOME/.docker}
export DOCKER_CONFIG
if ! has_compose; then
    say "installing Docker Compose"
    if ! from_apt docker-compose-plugin && ! from_apt docker-compose-v2; then
        DOCKER_CONFIG=$TOOLS
        has_compose || from_debian_13 >&2
    fi
fi
docker buildx version >/dev/null 2>&1 || export DOCKER_BUILDKIT=0
for image in postgres redis prometheus; do
    say "image hf2triton/e2e-$image"
    docker build -q -t "hf2triton/e2e-$image" "$HERE/$image" >&2
done
echo "$DOCKER_CONFIG"
