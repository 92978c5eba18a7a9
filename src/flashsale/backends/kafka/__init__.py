"""Kafka: the broker that events go out to, and the queue in which the requests of queued sales wait."""

from flashsale.backends.kafka.connect import Connection
from flashsale.backends.kafka.deliveries import KafkaDeliveries
from flashsale.backends.kafka.publisher import KafkaBroker
from flashsale.backends.kafka.queue import KafkaQueue
from flashsale.backends.kafka.topics import Plan, TopicsUnfit, facts

__all__ = ["Connection", "KafkaBroker", "KafkaDeliveries", "KafkaQueue", "Plan", "TopicsUnfit", "facts"]
