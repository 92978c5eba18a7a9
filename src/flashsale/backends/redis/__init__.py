"""The gate port on Redis and Valkey, one server or a cluster."""

from flashsale.backends.redis.connect import facts
from flashsale.backends.redis.gate import RedisGate

__all__ = ["RedisGate", "facts"]
