"""A driver for rfs: the keys of a Redis database."""

from rfs_redis.driver import RedisDriver
from rfs_redis.options import RedisOptions

__all__ = ["RedisDriver", "RedisOptions"]
