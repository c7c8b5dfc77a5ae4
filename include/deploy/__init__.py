"""What `docker-compose.yaml` needs besides Airflow: the image, the secrets, the health checks, the metrics."""
