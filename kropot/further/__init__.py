"""Further storages: kept in step with the first one, so that each of them alone is a whole backup."""
