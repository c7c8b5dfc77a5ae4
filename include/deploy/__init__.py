"""The parts of a Compose deployment besides Airflow: the image, the secrets, the health checks, the metrics."""
