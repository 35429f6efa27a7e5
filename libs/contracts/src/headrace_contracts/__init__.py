"""Typed Avro events, topic specifications, codec and schema registry client of Headrace."""
