"""Everything of hf2triton that does not know Airflow."""
