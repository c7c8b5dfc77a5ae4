#!/bin/sh
# What pip cannot bring: venv for Debian's python3, its shared library for Triton's python backend, and setpriv.
# Installs them where that is possible without asking (root), else says what to run.
set -eu

version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }
has_libpython() {
    "$1" - <<'PY'
import ctypes, pathlib, sys, sysconfig
name = f"libpython{sys.version_info[0]}.{sys.version_info[1]}.so.1.0"
if not (pathlib.Path(sysconfig.get_config_var("LIBDIR")) / name).exists():
    try:
        ctypes.CDLL(name)
    except OSError:
        sys.exit(1)
PY
}

need=""
command -v setpriv >/dev/null || need="$need util-linux"
if ! command -v python3 >/dev/null; then
    need="$need python3 python3-venv"
else
    python3 -c 'import ensurepip, venv' 2>/dev/null || need="$need python3-venv"
    case "$(version python3)" in
        # On any other version uv brings its own Python, library included.
        3.11 | 3.12) has_libpython python3 || need="$need libpython$(version python3)" ;;
    esac
fi
[ -z "$need" ] && exit 0

if [ "$(id -u)" = 0 ] && [ "$need" != "${1:-}" ]; then
    echo "installing:$need"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $need >/dev/null
    exec "$0" "$need"  # which library python3 needs is known only now that it is there
else
    echo "These system packages are missing. Install them and run make again:" >&2
    echo "    sudo apt-get install -y$need" >&2
    exit 1
fi
