"""The supervisor of a deployment of stand-ins, as a program: ``supervise.py <settings as JSON>``. It prints its log."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial

from include.live.supervise import NAME, supervise
from include.settings import Settings
from tests.support.live import Deployment

context = Deployment(Settings.model_validate_json(sys.argv[1])).context(NAME)
supervise(replace(context, log=partial(print, flush=True)), while_live=True)
