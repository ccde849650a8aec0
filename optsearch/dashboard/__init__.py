"""Optuna Dashboard over our database and artifacts, with what a study knows put into it."""
