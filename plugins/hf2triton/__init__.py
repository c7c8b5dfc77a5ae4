"""The Airflow extensions of hf2triton: operators, the trigger form, retry rules."""
