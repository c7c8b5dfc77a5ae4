"""Reports errors of the catalogue as an import error of this file, because Airflow shows import errors on its home page.

This file has no DAG: an import error in the file of `rebuild_on_change` would also stop the correct entries.
"""

from __future__ import annotations

from include.requests.catalogue import load
from include.settings import settings

load(settings().catalogue).check()
