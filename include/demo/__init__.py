"""The demo: an embedded Airflow, a demo model, and the demo's run."""
