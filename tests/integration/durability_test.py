"""What was confirmed is there after the broker was killed: whole, in order, once, and no more."""

import os
import random

import pika

import harness
from harness.publisher import ConfirmedPublisher, parse_body

PERSISTENT = pika.BasicProperties(delivery_mode=2)
TRANSIENT = pika.BasicProperties(delivery_mode=1)


class DurabilityCase(harness.BrokerTestCase):
    own_broker = True

    def drain(self, queue):
        """Takes all messages of a queue in order: [(method, body)]."""
        channel = self.channel()
        found = []
        while True:
            method, _, body = channel.basic_get(queue, auto_ack=True)
            if method is None:
                channel.connection.close()
                return found
            found.append((method, body))

    def confirm_channel(self):
        channel = self.channel()
        channel.confirm_delivery()
        return channel


    def rounds_of_publishing_and_sigkill(self, rounds):
        """Confirmed messages minus settled ones: all there, in each publisher's order, once."""
        seed = int(os.environ.get("SLUICE_SEED", str(random.SystemRandom().randrange(1 << 32))))
        print(f"SLUICE_SEED={seed} ", end="", flush=True)
        rng = random.Random(seed)
        queue = self.durable_queue(self.channel())
        self.broker.settle()
        for round_number in range(rounds):
            with self.subTest(round=round_number):
                self.one_round(queue, rng, round_number)

    def one_round(self, queue, rng, round_number):
        publishers = [ConfirmedPublisher(self.parameters(), queue, f"p{round_number}.{n}",
                                         rng.getrandbits(32), window=rng.choice((1, 20, 500)))
                      for n in range(3)]
        for publisher in publishers:
            publisher.start()
        kill_at = rng.randrange(50, 3000)
        consumer = self.channel()
        consumer.basic_qos(prefetch_count=50)
        acked, unsettled = set(), set()
        try:
            while sum(p.sent for p in publishers) < kill_at or not any(
                    p.confirmed for p in publishers):
                method, _, body = consumer.basic_get(queue)
                if method is None:
                    continue
                if rng.random() < 0.5:
                    consumer.basic_ack(method.delivery_tag)
                    acked.add(parse_body(body))
                else:
                    unsettled.add(parse_body(body))
        finally:
            self.broker.kill()
            for publisher in publishers:
                publisher.join(timeout=30)
        self.broker.start()
        found = [(m, parse_body(body)) for m, body in self.drain(queue)]
        self.check(publishers, acked, found)

    def check(self, publishers, acked, found):
        keys = [key for _, key in found]
        self.assertEqual(len(keys), len(set(keys)), "a message came back twice")
        confirmed = {(p.publisher, n) for p in publishers for n in p.confirmed}
        attempted = {(p.publisher, n) for p in publishers for n in range(p.sent)}
        self.assertEqual(sorted(confirmed - acked - set(keys))[:20], [], "lost")
        self.assertEqual(sorted(set(keys) - attempted)[:20], [], "never published")
        # An ack may be lost with the broker; then the message says that it was delivered before.
        for method, key in found:
            if key in acked:
                self.assertTrue(method.redelivered, f"{key} was acked, and returned as if new")
        for publisher in publishers:
            numbers = [number for name, number in keys if name == publisher.publisher]
            self.assertEqual(numbers, sorted(numbers), f"order of {publisher.publisher}")
        self.assertTrue(any(p.confirmed for p in publishers), "nothing was confirmed at all")


class Killed(DurabilityCase):
    def test_rounds_of_publishing_and_sigkill(self):
        self.rounds_of_publishing_and_sigkill(2 if harness.testing_rabbitmq() else 6)

    def test_acks_that_are_settled_do_not_come_back(self):
        channel = self.confirm_channel()
        queue = self.durable_queue(channel)
        for number in range(200):
            channel.basic_publish("", queue, str(number).encode(), PERSISTENT)
        self.broker.settle()
        for number in range(100):
            method, _, _ = channel.basic_get(queue)
            channel.basic_ack(method.delivery_tag)
        # Whatever is confirmed after an ack is durable after it.
        channel.basic_publish("", queue, b"200", PERSISTENT)
        self.broker.settle()
        self.broker.restart_after_kill()
        self.assertEqual([int(body) for _, body in self.drain(queue)], list(range(100, 201)))

    def test_acks_out_of_order(self):
        channel = self.confirm_channel()
        queue = self.durable_queue(channel)
        for number in range(300):
            channel.basic_publish("", queue, str(number).encode(), PERSISTENT)
        tags = [channel.basic_get(queue)[0].delivery_tag for _ in range(300)]
        for number in range(0, 300, 3):
            channel.basic_ack(tags[number])
        channel.basic_publish("", queue, b"300", PERSISTENT)
        self.broker.settle()
        for _ in range(2):
            self.broker.restart_after_kill()
        self.assertEqual([int(body) for _, body in self.drain(queue)],
                         [n for n in range(300) if n % 3] + [300])

    def test_requeued_and_unacked_messages_return_in_order(self):
        channel = self.confirm_channel()
        queue = self.durable_queue(channel)
        for number in range(20):
            channel.basic_publish("", queue, str(number).encode(), PERSISTENT)
        tags = [channel.basic_get(queue)[0].delivery_tag for _ in range(10)]
        for tag in tags[::2]:
            channel.basic_nack(tag, requeue=True)
        self.broker.settle()
        self.broker.restart_after_kill()
        found = self.drain(queue)
        self.assertEqual([int(body) for _, body in found], list(range(20)))

    def test_large_bodies_and_all_properties(self):
        channel = self.confirm_channel()
        queue = self.durable_queue(channel)
        properties = pika.BasicProperties(
            content_type="a/b", headers={"k": [1, {"x": "y"}]}, delivery_mode=2, priority=3,
            correlation_id="c", reply_to="r", message_id="m", timestamp=1700000000, type="t",
            app_id="a")
        bodies = [os.urandom(size) for size in (0, 1, 1000, 200000, 3 << 20)]
        for body in bodies:
            channel.basic_publish("", queue, body, properties)
        self.broker.settle()
        self.broker.restart_after_kill()
        channel = self.channel()
        for body in bodies:
            _, received, found = self.get(channel, queue)
            self.assertEqual(found, body)
            self.assertEqual(vars(received), vars(properties))

    def test_transient_messages_and_what_is_not_durable_vanish(self):
        channel = self.confirm_channel()
        durable = self.durable_queue(channel)
        transient, exclusive = self.name("transient"), self.name("exclusive")
        channel.queue_declare(transient)
        channel.queue_declare(exclusive, durable=True, exclusive=True)
        exchange = self.name("x")
        channel.exchange_declare(exchange, "fanout")
        channel.basic_publish("", durable, b"kept", PERSISTENT)
        channel.basic_publish("", durable, b"lost", TRANSIENT)
        self.broker.settle()
        self.broker.restart_after_kill()
        self.assertEqual([body for _, body in self.drain(durable)], [b"kept"])
        for gone in (transient, exclusive):
            ch = self.channel()
            self.assert_channel_closed(404, lambda c=ch, q=gone: c.queue_declare(q, passive=True))
        ch = self.channel()
        self.assert_channel_closed(404, lambda: ch.exchange_declare(exchange, passive=True))

    def test_definitions_survive(self):
        channel = self.confirm_channel()
        queue, exchange = self.durable_queue(channel), self.name("x")
        headers = self.name("h")
        channel.exchange_declare(exchange, "topic", durable=True)
        channel.exchange_declare(headers, "headers", durable=True)
        channel.queue_bind(queue, exchange, "a.#")
        channel.queue_bind(queue, exchange, "gone")
        channel.queue_unbind(queue, exchange, "gone")
        channel.queue_bind(queue, headers, "", {"x-match": "all", "k": 1})
        deleted = self.durable_queue(channel)
        channel.queue_delete(deleted)
        self.broker.settle()
        self.broker.restart_after_kill()
        channel = self.confirm_channel()
        channel.exchange_declare(exchange, "topic", durable=True)
        channel.queue_declare(queue, durable=True)
        channel.basic_publish(exchange, "a.b.c", b"1", PERSISTENT)
        channel.basic_publish(exchange, "gone", b"2", PERSISTENT)
        channel.basic_publish(headers, "", b"3", pika.BasicProperties(headers={"k": 1}))
        channel.basic_publish(headers, "", b"4", pika.BasicProperties(headers={"k": 2}))
        self.assertEqual([body for _, body in self.drain(queue)], [b"1", b"3"])
        self.assert_channel_closed(404, lambda: channel.queue_declare(deleted, passive=True))

    def test_a_purged_and_a_recreated_queue_stay_so(self):
        channel = self.confirm_channel()
        purged, recreated = self.durable_queue(channel), self.durable_queue(channel)
        for queue in (purged, recreated):
            for _ in range(10):
                channel.basic_publish("", queue, b"old", PERSISTENT)
        channel.queue_purge(purged)
        channel.queue_delete(recreated)
        channel.queue_declare(recreated, durable=True)
        for queue in (purged, recreated):
            channel.basic_publish("", queue, b"new", PERSISTENT)
        self.broker.settle()
        self.broker.restart_after_kill()
        for queue in (purged, recreated):
            self.assertEqual([body for _, body in self.drain(queue)], [b"new"])


@harness.sluice_only("--sync is sluiced's")
class SyncModes(DurabilityCase):
    """A kill takes nothing in any mode: the kernel has what was confirmed."""

    def make_broker(self):
        broker = harness.Sluiced(["--sync", self._testMethodName.removeprefix("test_")])
        broker.start()
        return broker

    def test_interval(self):
        self.rounds_of_publishing_and_sigkill(3)

    def test_none(self):
        self.rounds_of_publishing_and_sigkill(3)


class Stopped(DurabilityCase):
    def test_a_clean_stop_keeps_everything(self):
        channel = self.confirm_channel()
        queue = self.durable_queue(channel)
        for number in range(500):
            channel.basic_publish("", queue, str(number).encode(), PERSISTENT)
        for _ in range(2):
            self.broker.stop()
            self.broker.start()
        self.assertEqual([int(body) for _, body in self.drain(queue)], list(range(500)))

    def test_clients_are_told_of_a_clean_stop(self):
        channel = self.channel()
        queue = self.exclusive_queue(channel)
        self.consume(channel, queue)
        self.broker.stop()
        with self.assertRaises(harness.pika_errors.ConnectionClosedByBroker) as caught:
            channel.connection.process_data_events(time_limit=5)
        self.assertEqual(caught.exception.reply_code, 320)

    @harness.sluice_only("its data folder is guarded by its node name")
    def test_a_second_broker_on_the_same_data_is_refused(self):
        second = harness.Sluiced(["--data-dir", str(self.broker.data_dir)])
        self.addCleanup(second.discard)
        with self.assertRaisesRegex(AssertionError, "ended with status"):
            second.start()
        self.assert_serving()


if __name__ == "__main__":
    harness.main()
