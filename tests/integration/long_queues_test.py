"""Queues longer than the memory for messages: complete, in order, and in bounded RAM."""

import pathlib

import pika

import harness
from harness import wire

PERSISTENT = pika.BasicProperties(delivery_mode=2)
TRANSIENT = pika.BasicProperties(delivery_mode=1)
BODY_BYTES = 1000


def body(number):
    return b"%d:" % number + b"x" * BODY_BYTES


def number_of(found):
    return int(found.split(b":")[0])


def resident_mib(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no RssAnon")


@harness.sluice_only("the memory for messages is Sluice's own setting")
class LongQueues(harness.BrokerTestCase):
    own_broker = True

    def make_broker(self):
        broker = harness.Sluiced(["--message-memory", "1MiB"])
        broker.start()
        return broker

    def publish(self, channel, queues, count, properties, first=0):
        for number in range(first, first + count):
            for queue in queues:
                channel.basic_publish("", queue, body(number), properties)
        # What is confirmed later on the same connection is durable later.
        last = channel.connection.channel()
        scratch = self.durable_queue(last)
        last.confirm_delivery()
        last.basic_publish("", scratch, b"", PERSISTENT)
        last.queue_delete(scratch)
        last.close()

    def take(self, queue, count):
        """The next `count` messages, acknowledged in one go: [(method, number)]."""
        channel = self.channel()
        channel.basic_qos(prefetch_count=300)
        found = []
        for method, _, content in channel.consume(queue):
            self.assertEqual(len(content), len(body(number_of(content))))
            found.append((method, number_of(content)))
            if len(found) % 100 == 0 or len(found) == count:
                channel.basic_ack(method.delivery_tag, multiple=True)
            if len(found) == count:
                break
        channel.cancel()
        # A confirm covers what its channel has acknowledged before.
        scratch = self.durable_queue(channel)
        channel.confirm_delivery()
        channel.basic_publish("", scratch, b"", PERSISTENT)
        channel.queue_delete(scratch)
        channel.connection.close()
        return found

    def numbers(self, queue, count):
        return [number for _, number in self.take(queue, count)]

    def test_many_long_queues_in_little_memory(self):
        channel = self.channel()
        queues = [self.durable_queue(channel) for _ in range(10)]
        before = resident_mib(self.broker.pid)
        self.publish(channel, queues, 3000, PERSISTENT)
        # 30 MB of messages; RocksDB's buffers are the better part of what is allowed.
        self.assertLess(resident_mib(self.broker.pid), before + 64)
        for queue in queues:
            self.assertEqual(self.numbers(queue, 3000), list(range(3000)))

    def test_transient_messages_go_to_disk_too(self):
        channel = self.channel()
        queue = channel.queue_declare("", exclusive=True).method.queue
        self.publish(channel, [queue], 5000, TRANSIENT)
        self.assertEqual(channel.queue_declare(queue, passive=True).method.message_count, 5000)
        found = []
        while True:
            method, _, content = channel.basic_get(queue, auto_ack=True)
            if method is None:
                break
            found.append(number_of(content))
        self.assertEqual(found, list(range(5000)))

    def test_a_flood_of_transient_messages_is_held_back(self):
        peak = before = resident_mib(self.broker.pid)
        with wire.RawConnection(self.broker) as raw:
            raw.handshake()
            raw.open_channel()
            queue = raw.declare_queue(1)
            burst = wire.message(1, "", queue, b"x" * 65536) * 64
            for _ in range(200):
                raw.send(burst)
                peak = max(peak, resident_mib(self.broker.pid))
        # 800 MiB came as fast as a socket takes them. What is allowed is what may wait to be written,
        # with what RocksDB and a batch on its way hold.
        self.assertLess(peak - before, 400)

    def test_counts_and_order_over_a_kill_and_a_stop(self):
        channel = self.channel()
        queue = self.durable_queue(channel)
        self.publish(channel, [queue], 4000, PERSISTENT)
        self.assertEqual(self.numbers(queue, 1500), list(range(1500)))
        self.broker.restart_after_kill()
        count = self.channel().queue_declare(queue, passive=True).method.message_count
        self.assertEqual(count, 2500)
        self.broker.stop()
        self.broker.start()
        self.assertEqual(self.channel().queue_declare(queue, passive=True).method.message_count,
                         count)
        found = self.take(queue, count)
        self.assertEqual([number for _, number in found], list(range(1500, 4000)))

    def test_rejected_and_returned_messages_are_read_again(self):
        channel = self.channel()
        dead = self.durable_queue(channel)
        queue = self.durable_queue(channel, arguments={"x-dead-letter-exchange": "",
                                                       "x-dead-letter-routing-key": dead})
        self.publish(channel, [queue], 4000, PERSISTENT)
        consumer = self.channel()  # no prefetch: all of it is out at the same time
        tags = []
        for method, _, content in consumer.consume(queue):
            self.assertEqual(number_of(content), len(tags))
            tags.append(method.delivery_tag)
            if len(tags) == 4000:
                break
        for tag in tags[::2]:
            consumer.basic_reject(tag, requeue=False)
        consumer.connection.close()  # the others come back
        self.assertEqual(self.numbers(dead, 2000), list(range(0, 4000, 2)))
        found = self.take(queue, 2000)
        self.assertEqual([number for _, number in found], list(range(1, 4000, 2)))
        self.assertTrue(all(method.redelivered for method, _ in found))

    def test_purge_with_messages_out(self):
        channel = self.channel()
        queue = self.durable_queue(channel)
        self.publish(channel, [queue], 3000, PERSISTENT)
        holder = self.channel()
        method, _, content = holder.basic_get(queue)
        self.assertEqual(channel.queue_purge(queue).method.message_count, 2999)
        self.publish(channel, [queue], 10, PERSISTENT, first=5000)
        self.broker.restart_after_kill()
        self.assertEqual(self.numbers(queue, 11), [number_of(content), *range(5000, 5010)])


if __name__ == "__main__":
    harness.main()
