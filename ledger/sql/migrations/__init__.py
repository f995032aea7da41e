"""The schema's migrations, run by Alembic: each one is kept working forever."""
