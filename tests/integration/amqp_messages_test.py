"""Messages: bodies and properties arrive as they were sent; mandatory, returns and confirms."""

import datetime
import decimal
import hashlib

import pika

import harness
from harness import wire


class Content(harness.BrokerTestCase):
    def setUp(self):
        super().setUp()
        self.ch = self.channel()
        self.queue = self.exclusive_queue(self.ch)

    def round_trip(self, body, properties=None):
        self.ch.basic_publish("", self.queue, body, properties)
        return self.get(self.ch, self.queue, auto_ack=True)

    def test_empty_body(self):
        self.assertEqual(self.round_trip(b"")[2], b"")

    def test_empty_body_is_consumed_too(self):
        arrived, _ = self.consume(self.ch, self.queue, auto_ack=True)
        for body in (b"", b"x", b""):
            self.ch.basic_publish("", self.queue, body)
        self.pump(self.ch.connection, lambda: len(arrived) == 3)
        self.assertEqual([body for _, _, body in arrived], [b"", b"x", b""])

    def test_bodies_at_the_edges_of_a_frame(self):
        for size in (1, 131063, 131064, 131065, 2 * 131064 - 1, 2 * 131064, 2 * 131064 + 1):
            with self.subTest(size=size):
                body = hashlib.sha256(str(size).encode()).digest() * (size // 32 + 1)
                self.assertEqual(self.round_trip(body[:size])[2], body[:size])

    def test_a_large_body_over_many_frames(self):
        body = b"".join(hashlib.sha256(bytes([n % 256, n // 256 % 256, n // 65536])).digest()
                        for n in range(5 * 1024 * 1024 // 32))
        for _ in range(3):
            received = self.round_trip(body)[2]
            self.assertEqual(len(received), len(body))
            self.assertEqual(hashlib.sha256(received).digest(), hashlib.sha256(body).digest())

    def test_all_properties(self):
        sent = pika.BasicProperties(
            content_type="text/plain", content_encoding="gzip", headers={"k": "v"},
            delivery_mode=2, priority=5, correlation_id="c-1", reply_to="somewhere",
            expiration="60000", message_id="m-1", timestamp=1700000000, type="kind",
            user_id="guest", app_id="the tests", cluster_id="unused")
        self.assertEqual(vars(self.round_trip(b"m", sent)[1]), vars(sent))

    def test_no_properties(self):
        self.assertEqual(vars(self.round_trip(b"m")[1]), vars(pika.BasicProperties()))

    def test_all_header_types_that_pika_knows(self):
        headers = {
            "bool": True, "false": False, "int": -42, "long": 1 << 40,
            "text": "ü€", "empty": "", "bytes": b"\x00\xff", "void": None,
            "decimal": decimal.Decimal("3.14"), "time": datetime.datetime(2020, 2, 29, 12, 30),
            "table": {"a": {"b": {"c": [1, "two", None]}}}, "array": [1, [2, [3]], {"x": "y"}],
            "empty table": {}, "empty array": [],
        }
        received = self.round_trip(b"m", pika.BasicProperties(headers=headers))[1].headers
        self.assertEqual(received, headers)

    def test_header_types_byte_for_byte(self):
        """Types that pika can not write come back with the same type letter and bytes."""
        fields = b"".join([
            wire.field("b", b"b", b"\x80"), wire.field("B", b"B", b"\xff"),
            wire.field("s", b"s", b"\x80\x00"), wire.field("u", b"u", b"\xff\xfe"),
            wire.field("I", b"I", b"\x80\x00\x00\x01"), wire.field("i", b"i", b"\xff\x00\x00\x01"),
            wire.field("l", b"l", b"\x80" + bytes(7)), wire.field("f", b"f", b"\x3f\x80\x00\x00"),
            wire.field("d", b"d", b"\x3f\xf0" + bytes(6)), wire.field("x", b"x", wire.long_string(b"\0")),
            wire.field("t", b"t", b"\x01"), wire.field("V", b"V", b""),
        ])
        headers = wire.table(fields)
        with wire.RawConnection(self.broker) as raw:
            raw.handshake()
            raw.open_channel()
            queue = raw.declare_queue(1)
            raw.send(wire.basic_publish(1, "", queue),
                     wire.header_frame(1, 1, flags=0x2000, properties=headers),
                     wire.frame(wire.FRAME_BODY, 1, b"m"), wire.basic_get(1, queue))
            raw.expect(wire.BASIC_GET_OK)
            header = raw.read_frame().payload
        self.assertEqual(header[12:14], b"\x20\x00")
        self.assertEqual(header[14:], headers)

    def test_the_envelope_names_exchange_and_key(self):
        self.ch.queue_bind(self.queue, "amq.topic", "a.#")
        self.ch.basic_publish("amq.topic", "a.b", b"m")
        method = self.get(self.ch, self.queue)[0]
        self.assertEqual((method.exchange, method.routing_key), ("amq.topic", "a.b"))
        self.assertFalse(method.redelivered)

    def test_get_ok_counts_what_is_left_and_an_empty_queue_answers_get_empty(self):
        for _ in range(3):
            self.ch.basic_publish("", self.queue, b"m")
        self.assert_ready(self.ch, self.queue, 3)
        left = [self.get(self.ch, self.queue)[0].message_count for _ in range(3)]
        self.assertEqual(left, [2, 1, 0])
        self.assertEqual(self.ch.basic_get(self.queue), (None, None, None))

    def test_order_is_kept(self):
        for number in range(2000):
            self.ch.basic_publish("", self.queue, str(number).encode())
        arrived, _ = self.consume(self.ch, self.queue, auto_ack=True)
        self.pump(self.ch.connection, lambda: len(arrived) == 2000)
        self.assertEqual([int(body) for _, _, body in arrived], list(range(2000)))

    def test_a_user_id_that_is_not_the_users_is_refused(self):
        def publish():
            self.ch.basic_publish("", self.queue, b"m", pika.BasicProperties(user_id="someone"))
            self.ch.queue_declare("", exclusive=True)
        self.assert_channel_closed(406, publish)

    def test_publishes_on_several_channels_may_interleave_their_frames(self):
        with wire.RawConnection(self.broker) as raw:
            raw.handshake()
            raw.open_channel(1)
            raw.open_channel(2)
            queue = raw.declare_queue(1)
            one, two = b"1" * 3000, b"2" * 3000
            raw.send(wire.basic_publish(1, "", queue), wire.basic_publish(2, "", queue),
                     wire.header_frame(1, 3000), wire.header_frame(2, 3000))
            for at in range(0, 3000, 1000):
                raw.send(wire.frame(wire.FRAME_BODY, 2, two[at:at + 1000]),
                         wire.frame(wire.FRAME_BODY, 1, one[at:at + 1000]))
            raw.send(wire.queue_declare(1, queue, bits=1))
            raw.expect(wire.QUEUE_DECLARE_OK)
            bodies = set()
            for _ in range(2):
                raw.send(wire.basic_get(1, queue))
                raw.expect(wire.BASIC_GET_OK)
                raw.read_frame()
                bodies.add(raw.read_frame().payload)
            self.assertEqual(bodies, {one, two})


class MandatoryAndConfirms(harness.BrokerTestCase):
    def setUp(self):
        super().setUp()
        self.ch = self.channel()

    def test_unroutable_mandatory_messages_come_back(self):
        returned = []
        self.ch.add_on_return_callback(lambda _ch, *message: returned.append(message))
        self.ch.basic_publish("", self.name(), b"back", pika.BasicProperties(message_id="7"),
                              mandatory=True)
        self.ch.basic_publish("amq.direct", "nowhere", b"", mandatory=True)
        self.pump(self.ch.connection, lambda: len(returned) == 2)
        method, properties, body = returned[0]
        self.assertEqual((method.reply_code, method.reply_text), (312, "NO_ROUTE"))
        self.assertEqual((properties.message_id, body), ("7", b"back"))
        self.assertEqual((returned[1][0].exchange, returned[1][0].routing_key, returned[1][2]),
                         ("amq.direct", "nowhere", b""))

    def test_unroutable_messages_that_are_not_mandatory_go_nowhere(self):
        returned = []
        self.ch.add_on_return_callback(lambda _ch, *message: returned.append(message))
        self.ch.basic_publish("", self.name(), b"m")
        self.assert_nothing_more(self.ch.connection, returned, 0)

    def test_routable_mandatory_messages_do_not_come_back(self):
        queue = self.exclusive_queue(self.ch)
        self.ch.confirm_delivery()
        self.ch.basic_publish("", queue, b"m", mandatory=True)
        self.assertEqual(self.ready(self.ch, queue), 1)

    def test_a_confirmed_unroutable_mandatory_message_is_returned_first_then_acked(self):
        self.ch.confirm_delivery()
        with self.assertRaises(harness.pika_errors.UnroutableError) as caught:
            self.ch.basic_publish("", self.name(), b"m", mandatory=True)
        self.assertEqual(caught.exception.messages[0].method.reply_code, 312)

    def test_an_unroutable_message_is_confirmed(self):
        self.ch.confirm_delivery()
        self.ch.basic_publish("", self.name(), b"m")

    def test_a_confirmed_message_is_in_the_queue(self):
        self.ch.confirm_delivery()
        for durable in (True, False):
            queue = self.name()
            self.ch.queue_declare(queue, durable=durable, exclusive=True)
            for mode in (1, 2):
                self.ch.basic_publish("", queue, b"m", pika.BasicProperties(delivery_mode=mode))
            self.assertEqual(self.ready(self.ch, queue), 2)

    def test_each_of_many_is_confirmed_once_also_by_multiple_acks(self):
        with wire.RawConnection(self.broker) as raw:
            raw.handshake()
            raw.open_channel()
            queue = raw.declare_queue(1, self.name(), bits=4 | 2)
            raw.send(wire.method_frame(1, wire.CONFIRM_SELECT, b"\0"))
            raw.expect(wire.CONFIRM_SELECT_OK)
            count = 3000
            one = b"".join([wire.basic_publish(1, "", queue),
                            wire.header_frame(1, 4, flags=0x1000, properties=b"\x02"),
                            wire.frame(wire.FRAME_BODY, 1, b"body")])
            raw.send(one * count)
            outstanding = set(range(1, count + 1))
            while outstanding:
                arguments = raw.expect(wire.BASIC_ACK).arguments
                tag = int.from_bytes(arguments[:8], "big")
                self.assertLessEqual(tag, count)
                if arguments[8] & 1:
                    done = {number for number in outstanding if number <= tag}
                    outstanding -= done
                else:
                    self.assertIn(tag, outstanding)
                    outstanding.remove(tag)

    def test_selecting_confirms_twice_goes_on_counting(self):
        with wire.RawConnection(self.broker) as raw:
            raw.handshake()
            raw.open_channel()
            for expected in (1, 2):
                raw.send(wire.method_frame(1, wire.CONFIRM_SELECT, b"\0"))
                raw.expect(wire.CONFIRM_SELECT_OK)
                raw.send(wire.message(1, "", self.name(), b"m"))
                ack = raw.expect(wire.BASIC_ACK).arguments
                self.assertEqual(int.from_bytes(ack[:8], "big"), expected)

    def test_confirms_count_per_channel(self):
        for _ in range(2):
            channel = self.ch.connection.channel()
            channel.confirm_delivery()
            queue = self.exclusive_queue(channel)
            channel.basic_publish("", queue, b"m")
            self.assertEqual(self.ready(channel, queue), 1)

    def test_a_message_is_confirmed_though_it_was_acked_at_once(self):
        queue = self.durable_queue(self.ch)
        consumer = self.connect()
        arrived, _ = self.consume(consumer.channel(), queue, auto_ack=True)
        self.ch.confirm_delivery()
        for number in range(50):
            self.ch.basic_publish("", queue, str(number).encode(),
                                  pika.BasicProperties(delivery_mode=2))
            self.pump(consumer, lambda n=number: len(arrived) == n + 1)
        self.ch.queue_delete(queue)


if __name__ == "__main__":
    harness.main()
