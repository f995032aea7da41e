"""Further storages: kept in step with the first one, so that either of them alone is a whole backup."""
