"""Queues: durable, exclusive, auto-delete, server-named; passive, purge, delete."""

import harness


class Queues(harness.BrokerTestCase):
    def setUp(self):
        super().setUp()
        self.ch = self.channel()

    def test_declare_ok_counts_messages_and_consumers(self):
        queue = self.exclusive_queue(self.ch)
        for _ in range(3):
            self.ch.basic_publish("", queue, b"m")
        self.assert_ready(self.ch, queue, 3)
        answer = self.ch.queue_declare(queue, passive=True).method
        self.assertEqual((answer.queue, answer.message_count, answer.consumer_count), (queue, 3, 0))
        self.ch.basic_qos(prefetch_count=1)
        arrived, _ = self.consume(self.ch, queue)
        self.pump(self.ch.connection, lambda: arrived)
        answer = self.ch.queue_declare(queue, passive=True).method
        self.assertEqual((answer.message_count, answer.consumer_count), (2, 1))

    def test_server_named(self):
        names = {self.exclusive_queue(self.ch) for _ in range(20)}
        self.assertEqual(len(names), 20)
        for name in names:
            self.assertTrue(name.startswith("amq.gen-"), name)

    def test_reserved_names_are_refused(self):
        self.assert_channel_closed(
            403, lambda: self.ch.queue_declare("amq.mine"), "ACCESS_REFUSED")

    def test_passive_on_an_unknown_one(self):
        self.assert_channel_closed(
            404, lambda: self.ch.queue_declare(self.name(), passive=True), "NOT_FOUND")

    def test_passive_ignores_other_properties(self):
        queue = self.durable_queue(self.ch)
        self.ch.queue_declare(queue, passive=True, durable=False, auto_delete=True)
        self.ch.queue_delete(queue)

    def test_again_with_the_same_properties(self):
        queue = self.durable_queue(self.ch)
        self.ch.basic_publish("", queue, b"m")
        self.ch.queue_declare(queue, durable=True)
        self.assert_ready(self.ch, queue, 1)
        self.ch.queue_delete(queue)

    def test_again_with_other_properties(self):
        queue = self.durable_queue(self.ch)
        for change in ({"durable": False}, {"auto_delete": True},
                       {"arguments": {"x-message-ttl": 60000}}):
            with self.subTest(change=change):
                channel = self.channel()
                self.assert_channel_closed(
                    406, lambda ch=channel, c=change: ch.queue_declare(
                        queue, **{"durable": True, **c}), "PRECONDITION_FAILED")
        self.ch.queue_delete(queue)

    def test_exclusive_is_locked_to_its_connection(self):
        queue = self.name()
        self.ch.queue_declare(queue, exclusive=True)
        actions = {
            "declare": lambda ch: ch.queue_declare(queue, exclusive=True),
            "passive": lambda ch: ch.queue_declare(queue, passive=True),
            "get": lambda ch: ch.basic_get(queue),
            "consume": lambda ch: ch.basic_consume(queue, lambda *_: None),
            "purge": lambda ch: ch.queue_purge(queue),
            "delete": lambda ch: ch.queue_delete(queue),
            "bind": lambda ch: ch.queue_bind(queue, "amq.fanout"),
        }
        for name, action in actions.items():
            with self.subTest(action=name):
                channel = self.channel()
                self.assert_channel_closed(
                    405, lambda a=action, ch=channel: a(ch), "RESOURCE_LOCKED")
        other = self.channel()
        other.basic_publish("", queue, b"publishing is for everyone")
        self.assertEqual(self.get(self.ch, queue)[2], b"publishing is for everyone")

    def test_exclusive_is_shared_by_the_channels_of_its_connection(self):
        queue = self.exclusive_queue(self.ch)
        other = self.ch.connection.channel()
        other.basic_publish("", queue, b"m")
        self.assertEqual(self.get(other, queue)[2], b"m")

    def test_exclusive_goes_with_its_connection(self):
        connection = self.connect()
        channel = connection.channel()
        queue = self.name()
        channel.queue_declare(queue, exclusive=True, durable=True)
        connection.close()
        harness.await_until(lambda: self.is_gone(queue), what="the exclusive queue to go")

    def test_exclusive_stays_when_only_its_channel_closes(self):
        channel = self.ch.connection.channel()
        queue = self.exclusive_queue(channel)
        channel.close()
        self.assertEqual(self.ready(self.ch, queue), 0)

    def is_gone(self, queue):
        connection = self.connect()
        try:
            connection.channel().queue_declare(queue, passive=True)
            return False
        except harness.pika_errors.ChannelClosedByBroker as error:
            return error.reply_code == 404
        finally:
            connection.close()

    def test_auto_delete_goes_with_its_last_consumer(self):
        queue = self.name()
        self.ch.queue_declare(queue, auto_delete=True)
        _, first = self.consume(self.ch, queue)
        _, second = self.consume(self.ch, queue)
        self.ch.basic_cancel(first)
        self.assertEqual(self.ready(self.ch, queue), 0)
        self.ch.basic_cancel(second)
        self.assert_channel_closed(404, lambda: self.ch.queue_declare(queue, passive=True))

    def test_auto_delete_goes_when_the_consumers_connection_closes(self):
        queue = self.name()
        connection = self.connect()
        channel = connection.channel()
        channel.queue_declare(queue, auto_delete=True)
        self.consume(channel, queue)
        connection.close()
        harness.await_until(lambda: self.is_gone(queue), what="the auto-delete queue to go")

    def test_auto_delete_stays_while_it_never_had_a_consumer(self):
        queue = self.name()
        connection = self.connect()
        connection.channel().queue_declare(queue, auto_delete=True)
        connection.close()
        self.assertEqual(self.ready(self.ch, queue), 0)
        self.ch.queue_delete(queue)

    def test_purge_removes_ready_messages_only(self):
        queue = self.exclusive_queue(self.ch)
        for number in range(5):
            self.ch.basic_publish("", queue, str(number).encode())
        self.assert_ready(self.ch, queue, 5)
        held = self.get(self.ch, queue)[0]
        self.assertEqual(self.ch.queue_purge(queue).method.message_count, 4)
        self.assertEqual(self.ready(self.ch, queue), 0)
        self.ch.basic_nack(held.delivery_tag, requeue=True)
        self.assertEqual(self.get(self.ch, queue)[2], b"0")

    def test_purge_of_an_unknown_one(self):
        self.assert_channel_closed(404, lambda: self.ch.queue_purge(self.name()))

    def test_delete_says_how_many_messages_went(self):
        queue = self.durable_queue(self.ch)
        for _ in range(4):
            self.ch.basic_publish("", queue, b"m")
        self.assert_ready(self.ch, queue, 4)
        self.assertEqual(self.ch.queue_delete(queue).method.message_count, 4)
        self.assertEqual(self.ch.queue_delete(queue).method.message_count, 0)  # Not an error.

    def test_delete_if_empty(self):
        queue = self.durable_queue(self.ch)
        self.ch.basic_publish("", queue, b"m")
        self.assert_ready(self.ch, queue, 1)
        channel = self.channel()
        self.assert_channel_closed(406, lambda: channel.queue_delete(queue, if_empty=True))
        self.ch.queue_purge(queue)
        self.ch.queue_delete(queue, if_empty=True)

    def test_delete_if_unused(self):
        queue = self.durable_queue(self.ch)
        _, tag = self.consume(self.ch, queue)
        channel = self.channel()
        self.assert_channel_closed(406, lambda: channel.queue_delete(queue, if_unused=True))
        self.ch.basic_cancel(tag)
        self.ch.queue_delete(queue, if_unused=True)

    def test_a_deleted_name_starts_anew(self):
        queue = self.durable_queue(self.ch)
        self.ch.basic_publish("", queue, b"old")
        self.ch.queue_delete(queue)
        self.ch.queue_declare(queue, durable=True)
        self.assertEqual(self.ready(self.ch, queue), 0)
        self.ch.basic_publish("", queue, b"new")
        self.assertEqual(self.get(self.ch, queue)[2], b"new")
        self.ch.queue_delete(queue)

    def test_bad_argument_values_are_refused(self):
        channel = self.channel()
        with self.assertRaises((harness.pika_errors.ChannelClosedByBroker,
                                harness.pika_errors.ConnectionClosedByBroker)) as caught:
            channel.queue_declare(self.name(), durable=True, arguments={"x-message-ttl": "soon"})
        self.assertEqual(caught.exception.reply_code, 406)

    def test_unknown_arguments_are_kept_and_compared_no_further(self):
        queue = self.name()
        self.ch.queue_declare(queue, durable=True, arguments={"team": "blue"})
        self.ch.queue_declare(queue, durable=True, arguments={"team": "blue"})
        self.ch.queue_delete(queue)

    def test_a_long_name(self):
        queue = "q" * 255
        self.ch.queue_declare(queue, exclusive=True)
        self.ch.basic_publish("", queue, b"m")
        self.assertEqual(self.get(self.ch, queue)[2], b"m")

    def test_thousands_of_queues(self):
        channel = self.channel()
        queues = [self.exclusive_queue(channel) for _ in range(2000)]
        for queue in queues:
            channel.basic_publish("", queue, queue.encode())
        for queue in queues[::97]:
            self.assertEqual(self.get(channel, queue)[2], queue.encode())


if __name__ == "__main__":
    harness.main()
