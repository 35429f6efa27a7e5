"""The log on Apache Kafka, over confluent-kafka; nothing outside this package imports confluent-kafka."""

from headrace_streams.kafka.log import KafkaLog

__all__ = ["KafkaLog"]
