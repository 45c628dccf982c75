"""Consumers: acknowledging, rejecting, order of what returns, prefetch, cancel, fairness."""

import pika

import harness
from harness import wire


class Acknowledging(harness.BrokerTestCase):
    def setUp(self):
        super().setUp()
        self.ch = self.channel()
        self.queue = self.exclusive_queue(self.ch)

    def publish(self, count, first=0):
        for number in range(first, first + count):
            self.ch.basic_publish("", self.queue, str(number).encode())
        self.assert_ready(self.ch, self.queue, count)

    def get_all(self, count):
        return [self.get(self.ch, self.queue) for _ in range(count)]

    def numbers(self, count):
        """(body, redelivered) of the next messages, which are acked."""
        found = []
        for _ in range(count):
            method, _, body = self.get(self.ch, self.queue, auto_ack=True)
            found.append((int(body), method.redelivered))
        self.assertEqual(self.ch.basic_get(self.queue), (None, None, None))
        return found

    def test_acked_messages_are_gone(self):
        self.publish(3)
        for method, _, _ in self.get_all(3):
            self.ch.basic_ack(method.delivery_tag)
        self.ch.basic_recover(requeue=True)
        self.assertEqual(self.numbers(0), [])

    def test_ack_multiple_takes_all_up_to_the_tag(self):
        self.publish(5)
        tags = [method.delivery_tag for method, _, _ in self.get_all(5)]
        self.ch.basic_ack(tags[2], multiple=True)
        self.ch.basic_recover(requeue=True)
        self.assertEqual(self.numbers(2), [(3, True), (4, True)])

    def test_ack_multiple_zero_takes_all(self):
        self.publish(3)
        self.get_all(3)
        self.ch.basic_ack(0, multiple=True)
        self.ch.basic_recover(requeue=True)
        self.assertEqual(self.numbers(0), [])

    def test_delivery_tags_count_from_one_per_channel(self):
        self.publish(3)
        self.assertEqual([m.delivery_tag for m, _, _ in self.get_all(3)], [1, 2, 3])

    def test_nacked_messages_return_to_their_place(self):
        self.publish(5)
        methods = [method for method, _, _ in self.get_all(3)]
        self.ch.basic_nack(methods[1].delivery_tag, requeue=True)
        self.ch.basic_nack(methods[0].delivery_tag, requeue=True)
        self.ch.basic_nack(methods[2].delivery_tag, requeue=True)
        self.assertEqual(self.numbers(5), [(0, True), (1, True), (2, True), (3, False), (4, False)])

    def test_nack_multiple_requeues_in_order(self):
        self.publish(5)
        last = self.get_all(4)[-1][0]
        self.ch.basic_nack(last.delivery_tag, multiple=True, requeue=True)
        self.assertEqual(self.numbers(5),
                         [(0, True), (1, True), (2, True), (3, True), (4, False)])

    def test_nack_zero_multiple_requeues_all(self):
        self.publish(3)
        self.get_all(3)
        self.ch.basic_nack(0, multiple=True, requeue=True)
        self.assertEqual(self.numbers(3), [(0, True), (1, True), (2, True)])

    def test_reject_requeues_one_or_drops_it(self):
        self.publish(3)
        methods = [method for method, _, _ in self.get_all(2)]
        self.ch.basic_reject(methods[0].delivery_tag, requeue=False)
        self.ch.basic_reject(methods[1].delivery_tag, requeue=True)
        self.assertEqual(self.numbers(2), [(1, True), (2, False)])

    def test_nack_multiple_without_requeue_drops_all(self):
        self.publish(4)
        last = self.get_all(3)[-1][0]
        self.ch.basic_nack(last.delivery_tag, multiple=True, requeue=False)
        self.assertEqual(self.numbers(1), [(3, False)])

    def test_recover_requeues_what_is_unacked(self):
        self.publish(3)
        self.ch.basic_ack(self.get_all(3)[1][0].delivery_tag)
        self.ch.basic_recover(requeue=True)
        self.assertEqual(self.numbers(2), [(0, True), (2, True)])

    def test_closing_the_channel_requeues_in_order(self):
        other = self.ch.connection.channel()
        self.publish(5)
        for _ in range(3):
            self.get(other, self.queue)
        other.close()
        self.assertEqual(self.numbers(5), [(0, True), (1, True), (2, True), (3, False), (4, False)])

    def test_a_dropped_connection_requeues_in_order(self):
        queue = self.durable_queue(self.ch)
        for number in range(10):
            self.ch.basic_publish("", queue, str(number).encode())
        self.assert_ready(self.ch, queue, 10)
        with wire.RawConnection(self.broker) as raw:
            raw.handshake()
            raw.open_channel()
            for _ in range(7):
                raw.send(wire.basic_get(1, queue, no_ack=False))
                raw.expect(wire.BASIC_GET_OK)
                raw.read_frame()
                raw.read_frame()
        # Left without a word, as a crash of the client does it.
        self.assert_ready(self.ch, queue, 10)
        got = [self.get(self.ch, queue, auto_ack=True) for _ in range(10)]
        self.assertEqual([int(body) for _, _, body in got], list(range(10)))
        self.assertEqual([m.redelivered for m, _, _ in got], [True] * 7 + [False] * 3)
        self.ch.queue_delete(queue)

    def test_unknown_delivery_tag_closes_the_channel(self):
        for settle in (lambda ch: ch.basic_ack(99), lambda ch: ch.basic_nack(99),
                       lambda ch: ch.basic_reject(99), lambda ch: ch.basic_ack(99, multiple=True)):
            channel = self.ch.connection.channel()

            def action(settle=settle, channel=channel):
                settle(channel)
                channel.queue_declare(self.queue, passive=True)
            self.assert_channel_closed(406, action, "unknown delivery tag 99")

    def test_acking_twice_closes_the_channel(self):
        self.publish(1)
        other = self.ch.connection.channel()
        tag = self.get(other, self.queue)[0].delivery_tag

        def action():
            other.basic_ack(tag)
            other.basic_ack(tag)
            other.queue_declare(self.queue, passive=True)
        self.assert_channel_closed(406, action)

    def test_a_tag_of_another_channel_is_unknown(self):
        self.publish(1)
        self.get(self.ch, self.queue)
        other = self.ch.connection.channel()

        def action():
            other.basic_ack(1)
            other.queue_declare(self.queue, passive=True)
        self.assert_channel_closed(406, action)


class Consuming(harness.BrokerTestCase):
    def setUp(self):
        super().setUp()
        self.connection = self.connect()
        self.ch = self.connection.channel()
        self.queue = self.exclusive_queue(self.ch)

    def publish(self, count):
        for number in range(count):
            self.ch.basic_publish("", self.queue, str(number).encode())

    def test_prefetch_limits_each_consumer(self):
        self.publish(20)
        self.ch.basic_qos(prefetch_count=3)
        first, _ = self.consume(self.ch, self.queue)
        second, _ = self.consume(self.ch, self.queue)
        self.pump(self.connection, lambda: len(first) == 3 and len(second) == 3)
        self.assert_nothing_more(self.connection, first + second, 6)
        self.ch.basic_ack(first[0][0].delivery_tag)
        self.pump(self.connection, lambda: len(first) == 4)
        self.assert_nothing_more(self.connection, second, 3)

    def test_global_prefetch_limits_the_channel(self):
        self.publish(20)
        self.ch.basic_qos(prefetch_count=4, global_qos=True)
        first, _ = self.consume(self.ch, self.queue)
        second, _ = self.consume(self.ch, self.queue)
        self.pump(self.connection, lambda: len(first) + len(second) == 4)
        self.assert_nothing_more(self.connection, first + second, 4)
        last = max(m.delivery_tag for m, _, _ in first + second)
        self.ch.basic_ack(last, multiple=True)
        self.pump(self.connection, lambda: len(first) + len(second) == 8)
        self.assert_nothing_more(self.connection, first + second, 8)

    def test_prefetch_applies_to_consumers_that_start_after_it(self):
        self.publish(10)
        unlimited, _ = self.consume(self.ch, self.queue)
        self.pump(self.connection, lambda: len(unlimited) == 10)
        self.ch.basic_qos(prefetch_count=1)
        self.publish(5)
        self.pump(self.connection, lambda: len(unlimited) == 15)

    def test_prefetch_does_not_count_get_nor_no_ack(self):
        self.ch.basic_qos(prefetch_count=1)
        self.publish(5)
        for _ in range(2):
            self.get(self.ch, self.queue)
        arrived, _ = self.consume(self.ch, self.queue, auto_ack=True)
        self.pump(self.connection, lambda: len(arrived) == 3)

    def test_prefetch_zero_is_unlimited(self):
        self.ch.basic_qos(prefetch_count=0)
        self.publish(300)
        arrived, _ = self.consume(self.ch, self.queue)
        self.pump(self.connection, lambda: len(arrived) == 300)

    def test_prefetch_size_is_not_implemented(self):
        connection = self.connect()
        channel = connection.channel()
        self.assert_connection_closed(540, lambda: channel.basic_qos(prefetch_size=1000))

    def test_consumers_take_turns(self):
        groups = [self.consume(self.ch, self.queue, auto_ack=True)[0] for _ in range(3)]
        self.publish(30)
        self.pump(self.connection, lambda: sum(map(len, groups)) == 30)
        self.assertEqual([len(group) for group in groups], [10, 10, 10])

    def test_consumers_on_several_connections_take_turns(self):
        queue = self.durable_queue(self.ch)
        connections = [self.connect() for _ in range(3)]
        groups = [self.consume(c.channel(), queue, auto_ack=True)[0] for c in connections]
        for number in range(30):
            self.ch.basic_publish("", queue, str(number).encode())

        def all_arrived():
            for connection in connections:
                connection.process_data_events(0)
            return sum(map(len, groups)) == 30
        harness.await_until(all_arrived, what="30 messages")
        self.assertEqual([len(group) for group in groups], [10, 10, 10])
        self.ch.queue_delete(queue)

    def test_a_busy_consumer_is_passed_over(self):
        self.ch.basic_qos(prefetch_count=1)
        busy, _ = self.consume(self.ch, self.queue)
        self.publish(1)
        self.pump(self.connection, lambda: len(busy) == 1)
        self.ch.basic_qos(prefetch_count=0)
        free, _ = self.consume(self.ch, self.queue)
        self.publish(10)
        self.pump(self.connection, lambda: len(free) == 10)
        self.assertEqual(len(busy), 1)

    def test_cancel_stops_deliveries_and_keeps_what_is_unacked(self):
        arrived, tag = self.consume(self.ch, self.queue)
        self.publish(2)
        self.pump(self.connection, lambda: len(arrived) == 2)
        self.ch.basic_cancel(tag)
        self.publish(3)
        self.assert_ready(self.ch, self.queue, 3)
        self.ch.basic_ack(arrived[0][0].delivery_tag)
        self.ch.basic_nack(arrived[1][0].delivery_tag, requeue=True)
        self.assert_ready(self.ch, self.queue, 4)

    def test_cancel_of_an_unknown_tag_is_answered(self):
        with wire.RawConnection(self.broker) as raw:
            raw.handshake()
            raw.open_channel()
            raw.send(wire.method_frame(
                1, (60, 30), wire.short_string("nobody") + b"\0"))
            self.assertEqual(raw.expect((60, 31)).arguments, wire.short_string("nobody"))

    def test_server_named_consumer_tags_are_unique(self):
        tags = set()
        with wire.RawConnection(self.broker) as raw:
            raw.handshake()
            raw.open_channel()
            queue = raw.declare_queue(1)
            for _ in range(5):
                raw.send(wire.method_frame(
                    1, wire.BASIC_CONSUME,
                    b"\0\0" + wire.short_string(queue) + b"\0\0" + wire.table()))
                tags.add(raw.expect(wire.BASIC_CONSUME_OK).arguments)
        self.assertEqual(len(tags), 5)

    def test_a_consumer_tag_in_use_is_not_allowed(self):
        with wire.RawConnection(self.broker) as raw:
            raw.handshake()
            raw.open_channel()
            queue = raw.declare_queue(1)
            consume = wire.method_frame(
                1, wire.BASIC_CONSUME, b"\0\0" + wire.short_string(queue)
                + wire.short_string("mine") + b"\0" + wire.table())
            raw.send(consume)
            raw.expect(wire.BASIC_CONSUME_OK)
            raw.send(consume)
            self.assertEqual(raw.expect_connection_close()[0], 530)

    def test_an_unknown_queue_is_not_found(self):
        for action in (lambda ch: ch.basic_consume(self.name(), lambda *_: None),
                       lambda ch: ch.basic_get(self.name())):
            channel = self.connection.channel()
            self.assert_channel_closed(404, lambda a=action, ch=channel: a(ch), "NOT_FOUND")

    def test_an_exclusive_consumer_keeps_others_out(self):
        self.consume(self.ch, self.queue, exclusive=True)
        other = self.connection.channel()
        self.assert_channel_closed(
            403, lambda: other.basic_consume(self.queue, lambda *_: None), "ACCESS_REFUSED")

    def test_exclusive_consuming_of_a_queue_with_consumers_is_refused(self):
        _, tag = self.consume(self.ch, self.queue)
        other = self.connection.channel()
        self.assert_channel_closed(403, lambda: other.basic_consume(
            self.queue, lambda *_: None, exclusive=True))
        self.ch.basic_cancel(tag)
        self.consume(self.ch, self.queue, exclusive=True)

    def test_a_deleted_queue_cancels_its_consumers(self):
        cancelled = []
        self.ch.add_on_cancel_callback(cancelled.append)
        _, tag = self.consume(self.ch, self.queue)
        other = self.connection.channel()
        other.queue_delete(self.queue)
        self.pump(self.connection, lambda: cancelled)
        self.assertEqual(cancelled[0].method.consumer_tag, tag)
        self.assertTrue(self.ch.is_open)

    def test_a_stopped_consumer_does_not_stop_its_neighbour(self):
        lazy = self.connect()
        lazy_channel = lazy.channel()
        lazy_channel.basic_qos(prefetch_count=1)
        queue = self.durable_queue(self.ch)
        self.consume(lazy_channel, queue)
        arrived, _ = self.consume(self.ch, queue, auto_ack=True)
        for number in range(100):
            self.ch.basic_publish("", queue, str(number).encode())
        self.pump(self.connection, lambda: len(arrived) == 99)
        lazy.close()
        self.pump(self.connection, lambda: len(arrived) == 100)
        self.assertTrue(arrived[-1][0].redelivered)
        self.ch.queue_delete(queue)

    def test_requeued_messages_go_on_to_other_consumers(self):
        queue = self.durable_queue(self.ch)
        connections = [self.connect() for _ in range(2)]
        channels = [connection.channel() for connection in connections]
        rejected, accepted = [], []

        def reject(channel, method, _properties, body):
            rejected.append(body)
            channel.basic_nack(method.delivery_tag, requeue=True)

        def accept(channel, method, _properties, body):
            accepted.append(body)
            channel.basic_ack(method.delivery_tag)
        for channel, callback in zip(channels, (reject, accept)):
            channel.basic_qos(prefetch_count=1)
            channel.basic_consume(queue, callback)
        for number in range(20):
            self.ch.basic_publish("", queue, str(number).encode(),
                                  pika.BasicProperties(delivery_mode=2))

        def done():
            for connection in connections:
                connection.process_data_events(0)
            return len(accepted) == 20
        harness.await_until(done, what="20 accepted messages")
        self.assertEqual(sorted(map(int, accepted)), list(range(20)))
        self.assert_ready(self.ch, queue, 0)
        self.ch.queue_delete(queue)


if __name__ == "__main__":
    harness.main()
