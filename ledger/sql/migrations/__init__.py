"""The schema's migrations, which Alembic runs. Each one must keep working forever."""
