"""Assets, which other DAGs can wait for. The task that makes an asset describes its event."""

from __future__ import annotations

from airflow.sdk import Asset

GROUP = "hf2triton"
CHECKPOINT = Asset(name="hf2triton_checkpoint", uri="hf2triton://checkpoint", group=GROUP)
ENGINE = Asset(name="hf2triton_engine", uri="hf2triton://engine", group=GROUP)
OUTAGE = Asset(name="hf2triton_outage", uri="hf2triton://outage", group=GROUP)
LIVE_RELEASE = Asset(name="hf2triton_live_release", uri="hf2triton://live-release", group=GROUP)
