"""The log on Apache Kafka, over confluent-kafka; nothing outside of this package imports that."""

from headrace_streams.kafka.log import KafkaLog

__all__ = ["KafkaLog"]
