"""Everything saestore writes to disk or reads from a file, as pydantic models and Arrow schemas."""
