"""Developer commands that generate code and documents from the schemas and guard their compatibility."""
