"""The TestCase of the integration tests: a shared broker, pika connections that are cleaned up,
and the broker's log beside each failure."""

import sys
import unittest
import uuid

import pika

from .broker import start_broker, testing_rabbitmq
from .wait import Deadline

_shared = None


def main():
    """Runs the calling file's tests, each named, with the broker's log below a failure."""
    # pika leaves sockets of connections that broke to the garbage collector, which would warn.
    unittest.main(verbosity=2, module="__main__", warnings="ignore")


def sluice_only(reason):
    """Marks what RabbitMQ does not do, or does otherwise; `reason` says why Sluice must."""
    return unittest.skipIf(testing_rabbitmq(), f"not RabbitMQ's: {reason}")


def shared_broker():
    """The broker that all tests of a file share; stopped, and expected to stop well, at its end."""
    global _shared
    if _shared is None:
        _shared = start_broker()
        unittest.addModuleCleanup(_stop_shared)
    return _shared


def _stop_shared():
    global _shared
    broker, _shared = _shared, None
    try:
        if not broker.running():
            raise AssertionError("the broker had ended by itself:\n" + broker.output()[-8000:])
        broker.stop()
    finally:
        broker.discard()


class BrokerTestCase(unittest.TestCase):
    """Each test finds a running broker in `self.broker`.

    A class that kills its broker sets `own_broker` and gets a fresh one for every test.
    """

    own_broker = False
    maxDiff = 2000

    def make_broker(self):
        """Starts the broker of a test that has its own."""
        return start_broker()

    def setUp(self):
        if self.own_broker:
            self.broker = self.make_broker()
            self.addCleanup(self.broker.discard)
        else:
            self.broker = shared_broker()
        self._log_from = len(self.broker.output())

    def run(self, result=None):
        before = _count_failures(result)
        result = super().run(result)
        if _count_failures(result) > before and hasattr(self, "broker"):
            log = self.broker.output()[self._log_from:]
            print(f"--- the broker's output during {self.id()}:\n{log[-6000:]}---",
                  file=sys.stderr, flush=True)
        return result

    # --- pika ---

    def parameters(self, **changes):
        settings = {
            "host": self.broker.host, "port": self.broker.port, "virtual_host": "/",
            "credentials": pika.PlainCredentials("guest", "guest"), "heartbeat": 0,
            "socket_timeout": 10, "stack_timeout": 15, "blocked_connection_timeout": 30,
        }
        settings.update(changes)
        return pika.ConnectionParameters(**settings)

    def connect(self, **changes):
        """A pika connection that is closed at the end of the test, whatever state it is in."""
        connection = pika.BlockingConnection(self.parameters(**changes))
        self.addCleanup(_close_quietly, connection)
        return connection

    def channel(self, **changes):
        """The first channel of a connection of its own."""
        return self.connect(**changes).channel()

    def name(self, stem="q"):
        """A name that no other test uses."""
        return f"{stem}-{uuid.uuid4().hex[:12]}"

    def durable_queue(self, channel, **arguments):
        queue = self.name()
        channel.queue_declare(queue, durable=True, **arguments)
        return queue

    def exclusive_queue(self, channel, **arguments):
        return channel.queue_declare("", exclusive=True, **arguments).method.queue

    def ready(self, channel, queue):
        """How many messages are ready in a queue."""
        return channel.queue_declare(queue, passive=True).method.message_count

    def assert_ready(self, channel, queue, count, timeout_s=10.0):
        """Waits until a queue has `count` ready messages."""
        deadline = Deadline(timeout_s)
        while (ready := self.ready(channel, queue)) != count:
            if deadline.passed():
                self.fail(f"queue {queue} has {ready} ready messages, not {count}")
            channel.connection.sleep(0.01)

    def get(self, channel, queue, timeout_s=10.0, auto_ack=False):
        """Gets the next message, waiting for one to come: (method, properties, body)."""
        deadline = Deadline(timeout_s)
        while True:
            message = channel.basic_get(queue, auto_ack=auto_ack)
            if message[0] is not None:
                return message
            if deadline.passed():
                self.fail(f"queue {queue} stayed empty for {timeout_s:g} s")
            channel.connection.sleep(0.01)

    def consume(self, channel, queue, **arguments):
        """Subscribes; returns a list that fills with (method, properties, body) as events run."""
        arrived = []
        tag = channel.basic_consume(
            queue, lambda _channel, method, properties, body: arrived.append(
                (method, properties, body)), **arguments)
        return arrived, tag

    def pump(self, connection, condition, timeout_s=10.0, what="the expected events"):
        """Runs a pika connection's events until `condition` holds."""
        deadline = Deadline(timeout_s)
        while not condition():
            if deadline.passed():
                self.fail(f"waited {timeout_s:g} s for {what}")
            connection.process_data_events(time_limit=min(0.05, deadline.remaining_s()))

    def assert_nothing_more(self, connection, arrived, count):
        """A round trip on the connection brings no message beyond the `count` that came."""
        connection.channel().close()
        connection.process_data_events(time_limit=0.05)
        self.assertEqual(len(arrived), count)

    def assert_channel_closed(self, code, action, text=None):
        """`action` has to fail with a channel exception of this reply code."""
        with self.assertRaises(pika.exceptions.ChannelClosedByBroker) as caught:
            action()
        self.assertEqual(caught.exception.reply_code, code, caught.exception.reply_text)
        if text is not None:
            self.assertIn(text, caught.exception.reply_text)
        return caught.exception

    def assert_connection_closed(self, code, action, text=None):
        """`action` has to fail with a connection exception of this reply code."""
        with self.assertRaises(pika.exceptions.ConnectionClosedByBroker) as caught:
            action()
        self.assertEqual(caught.exception.reply_code, code, caught.exception.reply_text)
        if text is not None:
            self.assertIn(text, caught.exception.reply_text)
        return caught.exception

    def assert_serving(self):
        """The broker takes a new connection and passes a message through."""
        connection = pika.BlockingConnection(self.parameters())
        try:
            channel = connection.channel()
            queue = channel.queue_declare("", exclusive=True).method.queue
            channel.basic_publish("", queue, b"alive")
            self.assertEqual(self.get(channel, queue, auto_ack=True)[2], b"alive")
        finally:
            _close_quietly(connection)


def _count_failures(result):
    return 0 if result is None else len(result.failures) + len(result.errors)


def _close_quietly(connection):
    try:
        if connection.is_open:
            connection.close()
    except Exception:  # pylint: disable=broad-except
        pass  # A test may have broken it on purpose.
