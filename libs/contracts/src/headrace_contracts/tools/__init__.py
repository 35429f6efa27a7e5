"""Developer commands that generate code and documentation from the schemas and guard their compatibility."""
