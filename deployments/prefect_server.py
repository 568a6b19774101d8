"""Prefect's command line, whose server on SQLite refuses no writer: `python -m deployments.prefect_server server start`."""

from prefect.cli import app

from flows._locking import lock_when_transactions_begin

if __name__ == "__main__":
    lock_when_transactions_begin()
    app()
