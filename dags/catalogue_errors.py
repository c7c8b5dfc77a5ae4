"""Shows what is wrong with the catalogue as an import error of this file, where Airflow's users look for such.

There is no DAG in here: an import error in the file of `rebuild_on_change` would stop the entries that are right, too.
"""

from __future__ import annotations

from include.requests.catalogue import load
from include.settings import settings

load(settings().catalogue).check()
