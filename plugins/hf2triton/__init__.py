"""What extends Airflow for hf2triton: operators, the trigger form, retry rules."""
