"""The supervisor of a deployment of stand-ins, as a program: ``supervise.py <settings as JSON>``."""

from __future__ import annotations

import sys

from include.live.supervise import NAME, supervise
from include.settings import Settings
from tests.support.live import Deployment

supervise(Deployment(Settings.model_validate_json(sys.argv[1])).context(NAME), while_live=True)
