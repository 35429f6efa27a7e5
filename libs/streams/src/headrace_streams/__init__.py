"""Journal, parallel work engine and tables on Apache Kafka, with an in-memory twin."""
