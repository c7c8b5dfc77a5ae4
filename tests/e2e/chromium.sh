#!/usr/bin/env bash
# A Chromium for test_browser.py: what is installed, else (as root) the distribution's package, else Playwright's own.
set -euo pipefail

installed() {
    command -v chromium || command -v chromium-browser || command -v google-chrome
}

if installed >/dev/null; then
    echo "browser: $(installed), installed"
elif [ "$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-liberation \
    >/dev/null && chromium --version >/dev/null; then
    echo "browser: $(installed), from the distribution's package"
else
    .venvs/airflow/bin/python -m playwright install chromium
    echo "browser: Playwright's own download"
fi
