"""Connections and channels: login, virtual host, tuning, heartbeats, life and end."""

import time

import pika
from pika.exceptions import ProbableAccessDeniedError, ProbableAuthenticationError

import harness
from harness import wire


class Login(harness.BrokerTestCase):
    def test_right_password(self):
        self.assertTrue(self.connect().is_open)

    def test_wrong_password_is_access_refused(self):
        with self.assertRaises(ProbableAuthenticationError) as caught:
            self.connect(credentials=pika.PlainCredentials("guest", "wrong"))
        self.assertIn("403", str(caught.exception))
        self.assertIn("ACCESS_REFUSED", str(caught.exception))

    def test_unknown_user_is_access_refused(self):
        with self.assertRaises(ProbableAuthenticationError):
            self.connect(credentials=pika.PlainCredentials("nobody", "guest"))

    def test_the_reason_for_a_refused_login_is_sent_to_clients_that_understand_it(self):
        capabilities = wire.field("capabilities", b"F", wire.table(
            wire.field("authentication_failure_close", b"t", b"\x01")))
        with wire.RawConnection(self.broker) as raw:
            raw.send(wire.PROTOCOL_HEADER)
            raw.expect(wire.CONNECTION_START)
            raw.send(wire.start_ok(password="wrong", properties=capabilities))
            code, text, *_ = raw.expect_connection_close()
        self.assertEqual(code, 403)
        self.assertTrue(text.startswith("ACCESS_REFUSED"), text)

    def test_a_client_that_does_not_understand_it_is_just_disconnected(self):
        with wire.RawConnection(self.broker) as raw:
            raw.send(wire.PROTOCOL_HEADER)
            raw.expect(wire.CONNECTION_START)
            raw.send(wire.start_ok(password="wrong"))
            self.assertEqual(raw.read_to_end(), b"")

    def test_unknown_mechanism_is_refused(self):
        with wire.RawConnection(self.broker) as raw:
            raw.send(wire.PROTOCOL_HEADER)
            raw.expect(wire.CONNECTION_START)
            raw.send(wire.start_ok(mechanism="NOT-A-MECHANISM"))
            raw.await_closed()
        self.assert_serving()

    def test_unknown_virtual_host_is_not_allowed(self):
        with self.assertRaises(ProbableAccessDeniedError) as caught:
            self.connect(virtual_host="/nowhere")
        self.assertIn("530", str(caught.exception))
        self.assertIn("NOT_ALLOWED", str(caught.exception))

    def test_start_offers_plain_and_the_capabilities_that_clients_key_on(self):
        with wire.RawConnection(self.broker) as raw:
            raw.handshake()
            for word in (b"PLAIN", b"en_US", b"product", b"RabbitMQ", b"version",
                         b"publisher_confirms", b"basic.nack", b"consumer_cancel_notify",
                         b"authentication_failure_close"):
                self.assertIn(word, raw.server_properties)
            self.assertEqual(raw.server_properties[:2], b"\x00\x09", "protocol version 0-9")


class Tuning(harness.BrokerTestCase):
    def test_offers_limits(self):
        with wire.RawConnection(self.broker) as raw:
            raw.handshake()
            channel_max, frame_max, heartbeat_s = raw.tuned
        self.assertEqual(channel_max, 2047)
        self.assertEqual(frame_max, 131072)
        self.assertEqual(heartbeat_s, 60)

    def test_bodies_are_cut_to_the_negotiated_frame_max(self):
        with wire.RawConnection(self.broker) as raw:
            raw.handshake(frame_max=8192)
            raw.open_channel()
            queue = raw.declare_queue(1)
            body = bytes(range(256)) * 120
            raw.send(wire.message(1, "", queue, body, frame_max=8192), wire.basic_get(1, queue))
            raw.expect(wire.BASIC_GET_OK)
            self.assertEqual(raw.read_frame().kind, wire.FRAME_HEADER)
            received = b""
            while len(received) < len(body):
                part = raw.read_frame()
                self.assertLessEqual(len(part.payload) + 8, 8192)
                received += part.payload
            self.assertEqual(received, body)

    def test_frame_over_the_negotiated_frame_max_is_a_frame_error(self):
        with wire.RawConnection(self.broker) as raw:
            raw.handshake(frame_max=8192)
            raw.open_channel()
            queue = raw.declare_queue(1)
            # RabbitMQ allows for 8 bytes more than what was negotiated.
            raw.send(wire.message(1, "", queue, b"x" * 9000, frame_max=16384))
            self.assertEqual(raw.expect_connection_close()[0], 501)
        self.assert_serving()

    def test_frame_of_exactly_the_negotiated_frame_max_is_taken(self):
        with wire.RawConnection(self.broker) as raw:
            raw.handshake(frame_max=8192)
            raw.open_channel()
            queue = raw.declare_queue(1)
            raw.send(wire.message(1, "", queue, b"x" * 8184, frame_max=8192))
            raw.send(wire.basic_get(1, queue))
            raw.expect(wire.BASIC_GET_OK)

    def test_frame_max_over_the_offered_one_is_refused(self):
        with wire.RawConnection(self.broker) as raw:
            raw.start()
            raw.send(wire.tune_ok(frame_max=131073), wire.connection_open())
            self.assertIn(raw.expect_refusal(), (None, 501, 530))

    def test_frame_max_below_the_specifications_minimum_is_refused(self):
        with wire.RawConnection(self.broker) as raw:
            raw.start()
            raw.send(wire.tune_ok(frame_max=4095), wire.connection_open())
            self.assertIn(raw.expect_refusal(), (None, 501, 530))

    def test_frame_max_4096_is_taken(self):
        with wire.RawConnection(self.broker) as raw:
            raw.handshake(frame_max=4096)
            raw.open_channel()

    def test_a_channel_over_the_negotiated_channel_max_is_refused(self):
        with wire.RawConnection(self.broker) as raw:
            raw.handshake(channel_max=5)
            for channel in range(1, 6):
                raw.open_channel(channel)
            raw.send(wire.channel_open(6))
            code, text, *_ = raw.expect_connection_close()
        self.assertIn(code, (504, 530), text)

    def test_pika_negotiates_smaller_limits(self):
        connection = self.connect(channel_max=7, frame_max=4096)
        channel = connection.channel()
        queue = self.exclusive_queue(channel)
        channel.basic_publish("", queue, b"z" * 50000)
        self.assertEqual(self.get(channel, queue)[2], b"z" * 50000)


class Heartbeats(harness.BrokerTestCase):
    def test_the_broker_sends_them_and_drops_a_peer_that_goes_silent(self):
        with wire.RawConnection(self.broker) as raw:
            raw.handshake(heartbeat=1)
            silent_since = time.monotonic()
            heartbeats = 0
            with self.assertRaises(wire.PeerClosed):
                while time.monotonic() - silent_since < 15:
                    received = raw.read_frame(heartbeats=True)
                    self.assertEqual(received.kind, wire.FRAME_HEARTBEAT)
                    self.assertEqual((received.channel, received.payload), (0, b""))
                    heartbeats += 1
            silent_s = time.monotonic() - silent_since
        self.assertGreaterEqual(heartbeats, 1)
        self.assertGreaterEqual(silent_s, 1.0, "dropped within one heartbeat interval")
        self.assertLessEqual(silent_s, 6.0)
        self.assert_serving()

    def test_a_peer_that_sends_them_is_kept(self):
        with wire.RawConnection(self.broker) as raw:
            raw.handshake(heartbeat=1)
            kept_until = time.monotonic() + 4.5
            while time.monotonic() < kept_until:
                raw.read_frame(heartbeats=True)
                raw.send(wire.frame(wire.FRAME_HEARTBEAT, 0, b""))
            raw.open_channel()

    def test_zero_switches_them_off(self):
        with wire.RawConnection(self.broker) as raw:
            raw.handshake(heartbeat=0)
            with self.assertRaises(TimeoutError):
                raw.read_frame(timeout_s=3.0, heartbeats=True)
            raw.open_channel()

    def test_unacked_messages_of_a_dropped_peer_come_back(self):
        channel = self.channel()
        queue = self.durable_queue(channel)
        channel.basic_publish("", queue, b"held by the silent one")
        with wire.RawConnection(self.broker) as raw:
            raw.handshake(heartbeat=1)
            raw.open_channel()
            raw.send(wire.basic_get(1, queue, no_ack=False))
            raw.expect(wire.BASIC_GET_OK)
            method, _, body = self.get(channel, queue, timeout_s=15)
        self.assertEqual(body, b"held by the silent one")
        self.assertTrue(method.redelivered)
        channel.queue_delete(queue)


class Channels(harness.BrokerTestCase):
    def test_many_on_one_connection(self):
        connection = self.connect()
        channels = [connection.channel() for _ in range(300)]
        self.assertEqual(len({channel.channel_number for channel in channels}), 300)
        queues = [self.exclusive_queue(channel) for channel in channels]
        for channel, queue in zip(channels, queues):
            channel.basic_publish("", queue, queue.encode())
        for channel, queue in zip(channels, queues):
            self.assertEqual(self.get(channel, queue)[2], queue.encode())

    def test_the_highest_number_works(self):
        with wire.RawConnection(self.broker) as raw:
            raw.handshake()
            raw.open_channel(2047)
            raw.declare_queue(2047)

    def test_a_closed_number_can_be_opened_again(self):
        connection = self.connect()
        for _ in range(20):
            channel = connection.channel(1)
            queue = self.exclusive_queue(channel)
            channel.basic_publish("", queue, b"x")
            channel.close()

    def test_a_number_closed_by_the_broker_can_be_opened_again(self):
        connection = self.connect()
        for _ in range(5):
            channel = connection.channel(1)
            self.assert_channel_closed(
                404, lambda ch=channel: ch.queue_declare(self.name(), passive=True))
            channel = connection.channel(1)
            self.exclusive_queue(channel)
            channel.close()

    def test_what_is_sent_between_a_channel_error_and_its_close_ok_is_passed_over(self):
        with wire.RawConnection(self.broker) as raw:
            raw.handshake()
            raw.open_channel()
            raw.send(wire.queue_declare(1, self.name(), bits=1),
                     wire.queue_declare(1, self.name(), bits=4),
                     wire.message(1, "", "anywhere", b"lost with the channel"))
            self.assertEqual(raw.expect_channel_close()[0], 404)
            raw.open_channel()
            raw.declare_queue(1)

    def test_flow_is_answered(self):
        with wire.RawConnection(self.broker) as raw:
            raw.handshake()
            raw.open_channel()
            raw.send(wire.method_frame(1, wire.CHANNEL_FLOW, b"\x01"))
            self.assertEqual(raw.expect(wire.CHANNEL_FLOW_OK).arguments, b"\x01")

    def test_opening_twice_is_a_connection_error(self):
        with wire.RawConnection(self.broker) as raw:
            raw.handshake()
            raw.open_channel()
            raw.send(wire.channel_open(1))
            self.assertEqual(raw.expect_connection_close()[0], 504)

    def test_two_connections_live_side_by_side(self):
        first, second = self.connect(), self.connect()
        queue = self.durable_queue(first.channel())
        first.close()
        channel = second.channel()
        self.assertEqual(self.ready(channel, queue), 0)
        channel.queue_delete(queue)

    def test_hundreds_of_connections(self):
        connections = [self.connect() for _ in range(200)]
        for connection in connections:
            self.exclusive_queue(connection.channel())
        self.assert_serving()

    def test_close_is_answered_with_close_ok(self):
        with wire.RawConnection(self.broker) as raw:
            raw.handshake()
            raw.send(wire.method_frame(
                0, wire.CONNECTION_CLOSE, b"\x00\xc8" + wire.short_string("bye") + b"\0\0\0\0"))
            raw.expect(wire.CONNECTION_CLOSE_OK)

    def test_what_is_sent_behind_a_close_does_not_reset_the_connection(self):
        with wire.RawConnection(self.broker) as raw:
            raw.handshake()
            raw.open_channel()
            raw.send(wire.method_frame(
                0, wire.CONNECTION_CLOSE, b"\x00\xc8" + wire.short_string("bye") + b"\0\0\0\0"))
            raw.expect(wire.CONNECTION_CLOSE_OK)
            with self.assertRaises(wire.PeerClosed):
                raw.read_frame()
            # A reset, and the error behind it, would come with the second at the latest.
            for _ in range(3):
                raw.socket.sendall(wire.message(1, "", "anywhere", b"x" * 100_000))
            # A client that never closes its end is cut off.
            with self.assertRaises((BrokenPipeError, ConnectionResetError)):
                deadline = time.monotonic() + 15
                while time.monotonic() < deadline:
                    raw.socket.sendall(b"x" * 1000)
                    time.sleep(0.05)


if __name__ == "__main__":
    harness.main()
