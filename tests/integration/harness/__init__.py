"""What the integration tests stand on: broker processes, raw AMQP, the admin API, a TestCase.

Tests drive built binaries from outside, with clients that others wrote; only the tests about
malformed input speak AMQP by themselves (`wire`).
"""

from pika import exceptions as pika_errors

from . import admin, wire
from .broker import RabbitMq, Sluiced, build_dir, start_broker, testing_rabbitmq
from .case import BrokerTestCase, main, sluice_only
from .wait import Deadline, await_until

__all__ = [
    "BrokerTestCase", "Deadline", "RabbitMq", "Sluiced", "admin", "await_until", "build_dir", "main",
    "pika_errors", "sluice_only", "start_broker", "testing_rabbitmq", "wire",
]
