"""Rows: problems, completions, rewards, and what is kept or dropped. No torch, no Prefect, no MLflow."""
