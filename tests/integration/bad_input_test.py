"""Hostile and broken peers: each may lose its own connection, and nobody else notices."""

import os
import random
import struct

import harness
from harness import wire


class BadInputCase(harness.BrokerTestCase):
    """A bystander with a consumer is served before and after whatever a test does."""

    def setUp(self):
        super().setUp()
        self.bystander = self.connect()
        self.ch = self.bystander.channel()
        self.queue = self.exclusive_queue(self.ch)
        self.arrived, _ = self.consume(self.ch, self.queue, auto_ack=True)

    def tearDown(self):
        self.check_bystander()
        self.assert_serving()
        self.assertTrue(self.broker.running())

    def seed(self):
        """A new seed for random input, or the one that SLUICE_SEED gives; printed."""
        seed = int(os.environ.get("SLUICE_SEED", str(random.SystemRandom().randrange(1 << 32))))
        print(f"SLUICE_SEED={seed} ", end="", flush=True)
        return seed

    def check_bystander(self):
        before = len(self.arrived)
        self.ch.basic_publish("", self.queue, b"still served")
        self.pump(self.bystander, lambda: len(self.arrived) > before)

    def opened(self, **handshake):
        raw = wire.RawConnection(self.broker)
        self.addCleanup(raw.close)
        raw.handshake(**handshake)
        raw.open_channel()
        return raw


class BeforeTheHandshake(BadInputCase):
    def test_a_foreign_protocol_gets_our_header_and_an_end(self):
        for garbage in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01",
                        bytes(8), b"\xff" * 64, b"AMQP\x00\x00\x09\x02", b"AMQP\x01\x01\x00\x0a",
                        b"AMQP\x03\x01\x00\x00"):
            with self.subTest(garbage=garbage), wire.RawConnection(self.broker) as raw:
                raw.send(garbage)
                answer = raw.read_to_end()
                # RabbitMQ speaks AMQP 1.0's SASL header too, hence the prefix alone.
                self.assertEqual(answer, wire.PROTOCOL_HEADER)

    def test_nothing_is_sent_at_all(self):
        silent = [wire.RawConnection(self.broker) for _ in range(50)]
        self.check_bystander()
        for raw in silent:
            raw.close()

    def test_half_a_protocol_header(self):
        for length in range(1, 8):
            with wire.RawConnection(self.broker) as raw:
                raw.send(wire.PROTOCOL_HEADER[:length])
        self.check_bystander()

    def test_login_answers_that_are_no_plain_response(self):
        for response in (b"", b"\0", b"guest", b"\0guest", b"\0\0\0\0", b"\xff" * 1000,
                         b"a\0guest\0guest\0", b"\0guest\0" + b"x" * 100000):
            with self.subTest(response=response[:20]), wire.RawConnection(self.broker) as raw:
                raw.send(wire.PROTOCOL_HEADER)
                raw.expect(wire.CONNECTION_START)
                raw.send(wire.start_ok(response=response))
                # Some are refused with a reason; all end.
                raw.await_closed()

    def test_an_unauthenticated_peer_may_not_announce_a_large_frame(self):
        with wire.RawConnection(self.broker) as raw:
            raw.send(wire.PROTOCOL_HEADER)
            raw.expect(wire.CONNECTION_START)
            raw.send(struct.pack(">BHI", 1, 0, 0x7fffffff), b"x" * 4096)
            raw.await_closed()


class Frames(BadInputCase):
    def test_truncated_frames(self):
        whole = wire.queue_declare(1, "truncated", bits=4)
        for length in range(1, len(whole)):
            raw = self.opened()
            raw.send(whole[:length])
            raw.close()
            if length % 8 == 0:
                self.check_bystander()

    def test_announced_sizes_that_no_frame_has(self):
        for size in (131073, 0x7fffffff, 0x80000000, 0xfffffff7, 0xfffffff8, 0xffffffff):
            for kind in (wire.FRAME_METHOD, wire.FRAME_HEADER, wire.FRAME_BODY,
                         wire.FRAME_HEARTBEAT):
                with self.subTest(size=size, kind=kind):
                    raw = self.opened()
                    raw.send(wire.frame(kind, 1, b"x" * 100, size=size))
                    self.assertIn(raw.expect_connection_close()[0], (501, 505))

    def test_method_frames_too_short_for_a_method(self):
        for payload in (b"", b"\0", b"\0\x32", b"\0\x32\0"):
            raw = self.opened()
            raw.send(wire.frame(wire.FRAME_METHOD, 1, payload))
            raw.expect_connection_close()

    def test_header_frames_too_short_for_a_header(self):
        for length in (0, 1, 11):
            raw = self.opened()
            raw.send(wire.basic_publish(1, "", self.queue),
                     wire.frame(wire.FRAME_HEADER, 1, wire.header_frame(1, 5)[7:7 + length]))
            raw.expect_connection_close()

    @harness.sluice_only("it takes what exceeds the announced size")
    def test_a_body_longer_than_announced(self):
        raw = self.opened()
        raw.send(wire.basic_publish(1, "", self.queue), wire.header_frame(1, 5),
                 wire.frame(wire.FRAME_BODY, 1, b"123456"))
        self.assertIn(raw.expect_connection_close()[0], (501, 505))
        self.assertEqual(self.arrived, [])

    @harness.sluice_only("it goes on collecting the body")
    def test_body_sizes_beyond_all_reason(self):
        for size in ((1 << 63) - 1, 1 << 63, (1 << 64) - 1, 1 << 40):
            with self.subTest(size=size):
                with wire.RawConnection(self.broker) as raw:
                    raw.handshake()
                    raw.open_channel()
                    raw.send(wire.basic_publish(1, "", self.queue), wire.header_frame(1, size),
                             *[wire.frame(wire.FRAME_BODY, 1, b"x" * 100000)] * 20)
                    answer = raw.read_frame()
                    # Refused as soon as it is announced: the message is over the maximum.
                    self.assertIn(answer.method, (wire.CHANNEL_CLOSE, wire.CONNECTION_CLOSE))
                self.check_bystander()

    def test_a_publish_abandoned_in_the_middle(self):
        for cut in (wire.basic_publish(1, "", self.queue),
                    wire.basic_publish(1, "", self.queue) + wire.header_frame(1, 100000),
                    wire.message(1, "", self.queue, b"x" * 100000)[:-500]):
            raw = self.opened()
            raw.send(cut)
            raw.close()
        self.check_bystander()
        self.assertEqual([body for _, _, body in self.arrived], [b"still served"])

    def test_closing_the_channel_in_the_middle_of_a_body(self):
        raw = self.opened()
        raw.send(wire.basic_publish(1, "", self.queue), wire.header_frame(1, 100),
                 wire.frame(wire.FRAME_BODY, 1, b"x" * 50),
                 wire.method_frame(1, wire.CHANNEL_CLOSE, b"\0\0\0\0\0\0\0"))
        # RabbitMQ takes it for a misplaced method; closing is as good.
        self.assertIn(raw.read_frame().method, (wire.CHANNEL_CLOSE_OK, wire.CONNECTION_CLOSE))

    def test_empty_body_frames_without_end(self):
        raw = self.opened()
        raw.send(wire.basic_publish(1, "", self.queue), wire.header_frame(1, 3))
        raw.send(wire.frame(wire.FRAME_BODY, 1, b"") * 20000)
        self.check_bystander()


class Tables(BadInputCase):
    def declare_with(self, arguments):
        """How the broker takes a queue.declare with these bytes as its arguments table."""
        raw = self.opened()
        raw.send(wire.queue_declare(1, self.name(), bits=4, arguments=arguments))
        return raw.read_frame()

    def assert_refused(self, arguments):
        answer = self.declare_with(arguments)
        self.assertIn(answer.method, (wire.CHANNEL_CLOSE, wire.CONNECTION_CLOSE))
        code = answer.close_reason()[0]
        self.assertIn(code, (406, 501, 502, 541))

    def test_hostile_lengths(self):
        inner = wire.field("k", b"S", wire.long_string(b"v"))
        for arguments in (
                b"\xff\xff\xff\xff" + inner, b"\x7f\xff\xff\xff" + inner,
                struct.pack(">I", len(inner) + 1) + inner,
                wire.long_string(wire.field("k", b"S", b"\xff\xff\xff\xff")),
                wire.long_string(wire.field("k", b"S", b"\0\0\0\x05abc")),
                wire.long_string(wire.field("k", b"A", b"\xff\xff\xff\xff")),
                wire.long_string(wire.field("k", b"F", b"\x80\0\0\0")),
                wire.long_string(b"\xffshort name over the end"),
                wire.long_string(wire.field("k", b"I", b"\0\0")),
                wire.long_string(wire.short_string("k")),
        ):
            with self.subTest(arguments=arguments):
                self.assert_refused(arguments)

    def test_unknown_field_type(self):
        self.assert_refused(wire.table(wire.field("k", b"?", b"\0\0\0\0")))

    def test_zero_width_elements_do_not_amplify(self):
        """Each void is one byte on the wire: 100,000 in one array, over and over."""
        raw = self.opened()
        array = wire.field("x-a", b"A", wire.long_string(b"V" * 100000))
        for _ in range(20):
            raw.send(wire.queue_declare(1, self.name(), bits=4, arguments=wire.table(array)))
        first = raw.read_frame(timeout_s=30)
        self.assertIn(first.method,
                      (wire.QUEUE_DECLARE_OK, wire.CHANNEL_CLOSE, wire.CONNECTION_CLOSE))
        self.check_bystander()

    def test_deeply_nested_tables(self):
        for kind in (b"A", b"F"):
            nested = b""
            for _ in range(12000):
                if len(nested) > 100000:
                    break
                element = kind + wire.long_string(nested)
                nested = element if kind == b"A" else wire.short_string("") + element
            top = b"k" if kind == b"F" else b"k"
            field = wire.short_string(top) + kind + wire.long_string(nested)
            answer = self.declare_with(wire.table(field))
            self.assertIn(answer.method,
                          (wire.QUEUE_DECLARE_OK, wire.CHANNEL_CLOSE, wire.CONNECTION_CLOSE))

    def test_short_strings_over_the_end(self):
        for method, arguments in ((wire.QUEUE_DECLARE, b"\0\0\xffabc"),
                                  (wire.BASIC_PUBLISH, b"\0\0\x01"),
                                  (wire.EXCHANGE_DECLARE, b"\0\0\x05abcde\x80"),
                                  (wire.BASIC_CONSUME, b"\0\0" + wire.short_string("q") + b"\xff")):
            raw = self.opened()
            raw.send(wire.method_frame(1, method, arguments))
            self.assertIn(raw.expect_connection_close()[0], (501, 502, 505))

    @harness.sluice_only("it passes on properties that it need not read")
    def test_properties_over_the_end(self):
        for flags, properties in ((0x8000, b"\xffx"), (0x2000, b"\xff\xff\xff\xff"), (0x0040, b"\0"),
                                  (0xfffe, b""), (0xffff, b"\xff\xff\xff\xff")):
            with self.subTest(flags=hex(flags)):
                raw = self.opened()
                raw.send(wire.basic_publish(1, "", self.queue),
                         wire.header_frame(1, 1, flags=flags, properties=properties),
                         wire.frame(wire.FRAME_BODY, 1, b"m"),
                         wire.queue_declare(1, self.queue, bits=1))
                # A broken header may not reach a consumer.
                answer = raw.read_frame()
                self.assertIn(answer.method, (wire.CHANNEL_CLOSE, wire.CONNECTION_CLOSE))


class SlowAndHalfOpen(BadInputCase):
    def test_a_consumer_that_never_reads(self):
        """Its deliveries pile up at the broker's side of the socket, not in others' way."""
        sink = self.name()
        self.ch.queue_declare(sink, exclusive=False, auto_delete=True)
        raw = wire.RawConnection(self.broker, receive_buffer=4096)
        self.addCleanup(raw.close)
        raw.handshake()
        raw.open_channel()
        raw.send(wire.method_frame(1, wire.BASIC_CONSUME, b"\0\0" + wire.short_string(sink)
                                   + wire.short_string("c") + b"\x02" + wire.table()))
        raw.expect(wire.BASIC_CONSUME_OK)
        for _ in range(200):
            self.ch.basic_publish("", sink, b"x" * 200000)
        self.check_bystander()

    def test_one_byte_at_a_time(self):
        with wire.RawConnection(self.broker) as raw:
            session = b"".join([wire.PROTOCOL_HEADER, wire.start_ok(), wire.tune_ok(),
                                wire.connection_open(), wire.channel_open(1),
                                wire.message(1, "", self.queue, b"drop by drop")])
            for at in range(len(session)):
                raw.send(session[at:at + 1])
            self.pump(self.bystander, lambda: self.arrived)
        self.assertEqual(self.arrived[0][2], b"drop by drop")

    def test_frames_cut_at_random_places(self):
        """Whatever a read leaves of a frame, short or long, is put together with what follows."""
        rng = random.Random(self.seed())
        bodies = [rng.randbytes(rng.choice((0, 1, 11, 5000, 16384, 33000, 70000, 130000)))
                  for _ in range(200)]
        raw = self.opened()
        stream = b"".join(wire.message(1, "", self.queue, body) for body in bodies)
        at = 0
        while at < len(stream):
            size = rng.choice((1, 7, 8, 100, 4096, 32768, 32769, 100000, 262144))
            raw.send(stream[at:at + size])
            at += size
        self.pump(self.bystander, lambda: len(self.arrived) == len(bodies))
        for number, (arrived, body) in enumerate(zip(self.arrived, bodies)):
            self.assertEqual(arrived[2], body, number)

    def test_connections_that_are_reset(self):
        for _ in range(50):
            raw = self.opened()
            raw.send(wire.message(1, "", self.queue, b"x" * 5000)[:3000])
            raw.socket.setsockopt(wire.socket.SOL_SOCKET, wire.socket.SO_LINGER,
                                  struct.pack("ii", 1, 0))
            raw.close()

    def test_half_closed_connections_end(self):
        raw = self.opened()
        raw.socket.shutdown(wire.socket.SHUT_WR)
        raw.await_closed()

    def test_file_descriptors_and_threads_come_back(self):
        def open_files():
            return len(os.listdir(f"/proc/{self.broker.pid}/fd"))
        for _ in range(20):
            self.opened().close()
        before = open_files()
        for _ in range(200):
            self.opened().close()
        harness.await_until(lambda: open_files() <= before + 20, what="descriptors to be closed")


class Mutations(BadInputCase):
    """Thousands of random changes to a session that was right."""

    COUNT = int(os.environ.get("SLUICE_MUTATIONS", "3000"))

    def valid_session(self):
        headers = wire.table(wire.field("a", b"S", wire.long_string("v")),
                             wire.field("n", b"F", wire.table(wire.field("t", b"t", b"\1"))),
                             wire.field("l", b"A", wire.long_string(b"I\0\0\0\1V")))
        queue = self.name()
        return [
            wire.PROTOCOL_HEADER, wire.start_ok(), wire.tune_ok(heartbeat=30),
            wire.connection_open(), wire.channel_open(1),
            wire.queue_declare(1, queue, bits=4),
            wire.method_frame(1, wire.QUEUE_BIND, b"\0\0" + wire.short_string(queue)
                              + wire.short_string("amq.topic") + wire.short_string("a.#") + b"\0"
                              + wire.table()),
            wire.method_frame(1, wire.BASIC_QOS, b"\0\0\0\0\0\x05\0"),
            wire.method_frame(1, wire.CONFIRM_SELECT, b"\0"),
            wire.basic_publish(1, "amq.topic", "a.b"),
            wire.header_frame(1, 11, flags=0x2000, properties=headers),
            wire.frame(wire.FRAME_BODY, 1, b"hello world"),
            wire.basic_get(1, queue, no_ack=False),
            wire.method_frame(1, wire.BASIC_ACK, struct.pack(">QB", 1, 0)),
            wire.method_frame(1, wire.BASIC_CONSUME, b"\0\0" + wire.short_string(queue)
                              + wire.short_string("c") + b"\0" + wire.table()),
            wire.method_frame(1, wire.CHANNEL_CLOSE, b"\0\0\0\0\0\0\0"),
        ]

    def mutate(self, rng, parts):
        parts = list(parts)
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            # The log-in is left whole more often than not, so that most changes reach the inside.
            index = rng.randrange(0 if rng.random() < 0.2 else 4, len(parts))
            data = bytearray(parts[index])
            kind = rng.randrange(7)
            if not data or kind == 0:
                parts[index] = rng.randbytes(rng.randrange(1, 40))
                continue
            at = rng.randrange(len(data))
            if kind == 1:
                data[at] ^= 1 << rng.randrange(8)
            elif kind == 2:
                data[at] = rng.choice((0, 1, 0x7f, 0x80, 0xff))
            elif kind == 3:
                del data[at:at + rng.randrange(1, 8)]
            elif kind == 4:
                data[at:at] = rng.randbytes(rng.randrange(1, 8))
            elif kind == 5:
                other = rng.randrange(len(parts))
                parts[index], parts[other] = parts[other], parts[index]
                continue
            else:
                data[at:at + 4] = rng.choice((b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", bytes(4)))
            parts[index] = bytes(data)
        return b"".join(parts)

    def test_mutated_sessions(self):
        seed = self.seed()
        rng = random.Random(seed)
        session = self.valid_session()
        for number in range(self.COUNT):
            with wire.RawConnection(self.broker) as raw:
                raw.send(self.mutate(rng, session))
                # Most wait for the broker to have read everything; the others reset it on the way.
                if rng.random() < 0.9:
                    raw.socket.shutdown(wire.socket.SHUT_WR)
                    raw.await_closed(timeout_s=20)
            if number % 250 == 0:
                self.assertTrue(self.broker.running(), f"mutation {number} of seed {seed}")
                self.check_bystander()

    def test_random_bytes(self):
        rng = random.Random(self.seed())
        for number in range(300):
            with wire.RawConnection(self.broker) as raw:
                raw.send(wire.PROTOCOL_HEADER if number % 2 else b"",
                         rng.randbytes(rng.randrange(1, 3000)))
                raw.socket.shutdown(wire.socket.SHUT_WR)
                raw.await_closed(timeout_s=20)


if __name__ == "__main__":
    harness.main()
