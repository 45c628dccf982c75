"""A client's mistake: the right close code, for the channel or connection at fault and no other."""

import struct

import harness
from harness import wire


class ChannelErrors(harness.BrokerTestCase):
    def test_the_close_names_the_method_at_fault(self):
        with wire.RawConnection(self.broker) as raw:
            raw.handshake()
            raw.open_channel()
            raw.send(wire.queue_declare(1, "missing-" + self.name(), bits=1))
            code, text, class_id, method_id = raw.expect_channel_close()
        self.assertEqual((code, class_id, method_id), (404, *wire.QUEUE_DECLARE))
        self.assertTrue(text.startswith("NOT_FOUND - "), text)

    def test_only_the_channel_at_fault_closes(self):
        connection = self.connect()
        bystander, culprit = connection.channel(), connection.channel()
        queue = self.exclusive_queue(bystander)
        arrived, _ = self.consume(bystander, queue)
        self.assert_channel_closed(404, lambda: culprit.queue_declare(self.name(), passive=True))
        self.assertTrue(connection.is_open)
        bystander.basic_publish("", queue, b"m")
        self.pump(connection, lambda: arrived)
        bystander.basic_ack(arrived[0][0].delivery_tag)

    def test_a_closed_channels_consumers_and_unacked_messages_are_given_up(self):
        connection = self.connect()
        culprit, other = connection.channel(), connection.channel()
        queue = self.exclusive_queue(other)
        arrived, _ = self.consume(culprit, queue)
        other.basic_publish("", queue, b"m")
        self.pump(connection, lambda: arrived)
        self.assert_channel_closed(404, lambda: culprit.queue_declare(self.name(), passive=True))
        method, _, _ = self.get(other, queue)
        self.assertTrue(method.redelivered)
        self.assertEqual(other.queue_declare(queue, passive=True).method.consumer_count, 0)


class ConnectionErrors(harness.BrokerTestCase):
    """Each case breaks one connection in one way while another one consumes."""

    def setUp(self):
        super().setUp()
        self.bystander = self.connect()
        self.ch = self.bystander.channel()
        self.queue = self.exclusive_queue(self.ch)
        self.arrived, _ = self.consume(self.ch, self.queue, auto_ack=True)

    def tearDown(self):
        self.ch.basic_publish("", self.queue, b"still served")
        self.pump(self.bystander, lambda: self.arrived)

    def close_code(self, *parts, channel=True):
        """The code with which the broker answers these bytes on an open connection."""
        with wire.RawConnection(self.broker) as raw:
            raw.handshake()
            if channel:
                raw.open_channel()
            raw.send(*parts)
            return raw.expect_connection_close()[0]

    @harness.sluice_only("it hangs up without saying why")
    def test_unknown_class(self):
        self.assertIn(self.close_code(wire.method_frame(1, (999, 10))), (502, 503, 540))

    @harness.sluice_only("it hangs up without saying why")
    def test_unknown_method(self):
        self.assertIn(self.close_code(wire.method_frame(1, (50, 999))), (502, 503, 540))

    def test_a_clients_turn_to_send_what_only_servers_send(self):
        self.assertIn(self.close_code(wire.method_frame(1, wire.QUEUE_DECLARE_OK,
                                                        wire.short_string("q") + bytes(8))),
                      (503, 540))

    def test_method_too_short_for_its_arguments(self):
        self.assertIn(self.close_code(wire.method_frame(1, wire.QUEUE_DECLARE, b"\0\0\x40abc")),
                      (501, 502))

    def test_method_on_a_channel_that_is_not_open(self):
        self.assertEqual(self.close_code(wire.queue_declare(3, "q")), 504)

    def test_channel_method_on_channel_zero(self):
        self.assertIn(self.close_code(wire.queue_declare(0, "q")), (503, 504, 505))

    def test_connection_method_on_another_channel(self):
        self.assertIn(self.close_code(wire.method_frame(
            1, wire.CONNECTION_TUNE_OK, struct.pack(">HIH", 0, 131072, 0))), (503, 504, 540))

    def test_content_header_without_publish(self):
        self.assertEqual(self.close_code(wire.header_frame(1, 10)), 505)

    def test_content_body_without_publish(self):
        self.assertEqual(self.close_code(wire.frame(wire.FRAME_BODY, 1, b"x")), 505)

    def test_method_where_the_content_header_is_due(self):
        self.assertEqual(self.close_code(wire.basic_publish(1, "", "q"),
                                         wire.queue_declare(1, "q")), 505)

    def test_body_before_the_content_header(self):
        self.assertEqual(self.close_code(wire.basic_publish(1, "", "q"),
                                         wire.frame(wire.FRAME_BODY, 1, b"x")), 505)

    def test_method_where_the_body_is_due(self):
        self.assertEqual(self.close_code(wire.basic_publish(1, "", "q"), wire.header_frame(1, 10),
                                         wire.queue_declare(1, "q")), 505)

    def test_content_header_of_another_class(self):
        self.assertIn(self.close_code(wire.basic_publish(1, "", "q"),
                                      wire.header_frame(1, 10, class_id=50)), (501, 505))

    def test_wrong_frame_end(self):
        self.assertEqual(self.close_code(wire.frame(
            wire.FRAME_METHOD, 1, wire.method_payload((20, 10), b"\0"), end=b"\xcd")), 501)

    def test_unknown_frame_type(self):
        self.assertIn(self.close_code(wire.frame(7, 1, b"payload")), (501, 505))

    def test_immediate_is_not_implemented(self):
        self.assertEqual(self.close_code(wire.message(1, "", "q", b"m", bits=2)), 540)

    def test_method_out_of_turn_in_the_handshake(self):
        for first in (wire.connection_open(), wire.channel_open(1), wire.tune_ok()):
            with wire.RawConnection(self.broker) as raw:
                raw.send(wire.PROTOCOL_HEADER)
                raw.expect(wire.CONNECTION_START)
                raw.send(first)
                raw.await_closed()

    def test_what_follows_a_connection_error_is_passed_over(self):
        queue = self.name()
        with wire.RawConnection(self.broker) as raw:
            raw.handshake()
            raw.open_channel()
            raw.send(wire.header_frame(1, 1), wire.queue_declare(1, queue, bits=2))
            raw.expect_connection_close()
        self.assert_channel_closed(
            404, lambda: self.bystander.channel().queue_declare(queue, passive=True))

    def test_exclusive_queues_of_a_broken_connection_go(self):
        queue = self.name()
        with wire.RawConnection(self.broker) as raw:
            raw.handshake()
            raw.open_channel()
            raw.declare_queue(1, queue)
            raw.send(wire.header_frame(1, 1))
            raw.expect_connection_close()

        def gone():
            channel = self.bystander.channel()
            try:
                channel.queue_declare(queue, passive=True)
                return False
            except harness.pika_errors.ChannelClosedByBroker as error:
                return error.reply_code == 404
        harness.await_until(gone, what="the exclusive queue to go")


if __name__ == "__main__":
    harness.main()
