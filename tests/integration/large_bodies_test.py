"""Bodies too large for RAM: streamed in and out, stored once, gone when nobody needs them."""

import hashlib
import os
import random
import socket
import struct
import threading

import pika

import harness
from harness import Deadline, await_until, wire

PERSISTENT = pika.BasicProperties(delivery_mode=2)
MIB = 1 << 20
# Bodies above are external: storage/limits.h.
INLINE_MAX = 256 << 10
CHUNK = 252 << 10
BODY_MAX = 128 * MIB


def body_of(size, seed):
    """Bytes that are cheap to make and differ from place to place."""
    block = random.Random(seed).randbytes(64 << 10)
    return b"".join(struct.pack(">Q", at) + block for at in range(0, size, len(block) + 8))[:size]


class LargeBodyCase(harness.BrokerTestCase):
    own_broker = True

    def confirm_channel(self, **changes):
        channel = self.channel(**changes)
        channel.confirm_delivery()
        return channel

    def data_bytes(self, logs=True):
        """The write-ahead logs have their size before they are written."""
        total = 0
        for path in self.broker.data_dir.rglob("*"):
            if path.suffix == ".log" and not logs:
                continue
            try:
                total += path.stat().st_size
            except FileNotFoundError:
                pass
        return total

    def anonymous_bytes(self):
        with open(f"/proc/{self.broker.pid}/status", encoding="ascii") as status:
            for line in status:
                if line.startswith("RssAnon:"):
                    return int(line.split()[1]) << 10
        raise AssertionError("no RssAnon")

    def await_small_disk(self, limit, timeout_s=60):
        await_until(lambda: self.data_bytes(logs=False) < limit, timeout_s,
                    lambda: f"the data directory to shrink below {limit}: {self.data_bytes()}")


class Sizes(LargeBodyCase):
    def test_around_each_border(self):
        channel = self.confirm_channel()
        queue = self.durable_queue(channel)
        sizes = [INLINE_MAX - 1, INLINE_MAX, INLINE_MAX + 1]
        for chunks in (2, 5):
            sizes += [chunks * CHUNK - 1, chunks * CHUNK, chunks * CHUNK + 1]
        bodies = [body_of(size, size) for size in sizes]
        for body in bodies:
            channel.basic_publish("", queue, body, PERSISTENT)
        for body in bodies:
            _, _, found = self.get(channel, queue)
            self.assertEqual((len(found), hash(found)), (len(body), hash(body)))
        # Unacknowledged: all come back after a crash.
        self.broker.restart_after_kill()
        channel = self.channel()
        for body in bodies:
            method, _, found = self.get(channel, queue, auto_ack=True)
            self.assertTrue(method.redelivered)
            self.assertEqual((len(found), hash(found)), (len(body), hash(body)))

    def test_small_frames(self):
        publisher = self.confirm_channel(frame_max=4096)
        queue = self.durable_queue(publisher)
        body = body_of(3 * MIB + 17, 1)
        publisher.basic_publish("", queue, body, PERSISTENT)
        self.assertTrue(self.get(self.channel(frame_max=4096), queue)[2] == body)

    def test_the_largest_and_one_more(self):
        channel = self.confirm_channel()
        queue = self.durable_queue(channel)
        body = body_of(BODY_MAX, 2)
        channel.basic_publish("", queue, body, PERSISTENT)
        self.assertTrue(self.get(channel, queue, timeout_s=60)[2] == body)
        other = self.confirm_channel()
        self.assert_channel_closed(
            406, lambda: other.basic_publish("", queue, body + b"x", PERSISTENT), "max size")
        self.assert_serving()


class Ways(LargeBodyCase):
    """Each way in and out."""

    def setUp(self):
        super().setUp()
        self.ch = self.confirm_channel()
        self.body = body_of(5 * MIB + 3, 3)

    def publish(self, queue, properties=PERSISTENT, **arguments):
        self.ch.basic_publish(arguments.get("exchange", ""), queue, self.body, properties)

    def test_consumers_get_them_in_order_among_small_ones(self):
        queue = self.durable_queue(self.ch)
        expected = []
        for number in range(12):
            body = body_of(random.Random(number).choice((10, 1000, 300_000, 2 * MIB)), number)
            expected.append(hashlib.sha256(body).hexdigest())
            self.ch.basic_publish("", queue, body, PERSISTENT)
        consumer = self.channel()
        arrived, _ = self.consume(consumer, queue, auto_ack=True)
        self.pump(consumer.connection, lambda: len(arrived) == 12, 30)
        self.assertEqual([hashlib.sha256(body).hexdigest() for _, _, body in arrived], expected)

    def test_waiting_consumer_and_transient_messages(self):
        queue = self.exclusive_queue(self.ch)
        arrived, _ = self.consume(self.ch, queue)
        self.publish(queue, pika.BasicProperties(delivery_mode=1))
        self.pump(self.ch.connection, lambda: arrived, 30)
        self.assertEqual(arrived[0][2], self.body)
        self.ch.basic_ack(arrived[0][0].delivery_tag)
        self.await_small_disk(3 * MIB)

    def test_unroutable_ones_come_back(self):
        returned = []
        channel = self.channel()
        channel.add_on_return_callback(lambda *args: returned.append(args))
        channel.basic_publish("", "nowhere", self.body, PERSISTENT, mandatory=True)
        self.pump(channel.connection, lambda: returned, 30)
        _, method, _, body = returned[0]
        self.assertEqual((method.reply_code, body), (312, self.body))
        self.await_small_disk(3 * MIB)

    def test_rejected_ones_are_dead_lettered(self):
        dead = self.durable_queue(self.ch)
        queue = self.durable_queue(self.ch, arguments={
            "x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead})
        self.publish(queue)
        method, _, _ = self.get(self.ch, queue)
        self.ch.basic_reject(method.delivery_tag, requeue=False)
        self.broker.settle()
        method, properties, body = self.get(self.ch, dead)
        self.assertEqual(body, self.body)
        self.assertEqual(properties.headers["x-death"][0]["queue"], queue)
        self.ch.basic_nack(method.delivery_tag, requeue=True)
        self.broker.restart_after_kill()
        self.assertEqual(self.get(self.channel(), dead, auto_ack=True)[2], self.body)
        self.await_small_disk(3 * MIB)

    def test_no_ack_ones_are_whole_though_the_queue_forgets_them(self):
        queue = self.durable_queue(self.ch)
        for _ in range(3):
            self.publish(queue)
        channel = self.channel()
        arrived, _ = self.consume(channel, queue, auto_ack=True)
        self.pump(channel.connection, lambda: len(arrived) == 3, 30)
        for _, _, body in arrived:
            self.assertTrue(body == self.body)
        self.await_small_disk(3 * MIB)

    def test_purged_and_deleted_queues_give_their_disk_back(self):
        first, second = self.durable_queue(self.ch), self.durable_queue(self.ch)
        for _ in range(4):
            self.publish(first)
            self.publish(second)
        self.assertGreater(self.data_bytes(), 40 * MIB)
        self.ch.queue_purge(first)
        self.ch.queue_delete(second)
        self.await_small_disk(3 * MIB)

    def test_a_publisher_that_vanishes_leaves_nothing(self):
        queue = self.durable_queue(self.ch)
        with wire.RawConnection(self.broker) as client:
            client.handshake()
            client.open_channel()
            client.send(wire.basic_publish(1, "", queue), wire.header_frame(1, 64 * MIB))
            part = wire.frame(wire.FRAME_BODY, 1, bytes(100_000))
            for _ in range(300):
                client.send(part)
            await_until(lambda: self.data_bytes() > 10 * MIB, 30, "the first chunks on disk")
        self.await_small_disk(3 * MIB)
        self.assert_ready(self.ch, queue, 0)

    def test_a_body_longer_than_announced_is_a_frame_error(self):
        with wire.RawConnection(self.broker) as client:
            client.handshake()
            client.open_channel()
            client.send(wire.basic_publish(1, "", "q"), wire.header_frame(1, MIB))
            for _ in range(11):
                client.send(wire.frame(wire.FRAME_BODY, 1, bytes(100_000)))
            self.assertEqual(client.expect_connection_close()[0], 501)
        self.await_small_disk(3 * MIB)


    def test_peeking_shows_the_beginning(self):
        queue = self.durable_queue(self.ch)
        self.ch.basic_publish("", queue, b"small", PERSISTENT)
        self.ch.basic_publish("", queue, b"large " * (1 << 20), PERSISTENT)
        first, second = harness.admin.Admin(self.broker.admin_url).get(
            f"queues/%2F/{queue}/messages")
        self.assertEqual((first["payload"], first["payload_bytes"]), ("small", 5))
        self.assertEqual(second["payload"], ("large " * 20_000)[:64 << 10])
        self.assertEqual((second["payload_bytes"], second["payload_encoding"]),
                         (6 << 20, "string"))
        self.assert_ready(self.ch, queue, 2)


class Streaming(LargeBodyCase):
    """What else goes on while a client is in the middle of a body."""

    SIZE = 32 * MIB

    def setUp(self):
        super().setUp()
        self.ch = self.confirm_channel()
        self.queue = self.durable_queue(self.ch)
        self.body = body_of(self.SIZE, 4)
        self.ch.basic_publish("", self.queue, self.body, PERSISTENT)

    def raw(self, heartbeat=0):
        client = wire.RawConnection(self.broker, receive_buffer=4096)
        self.addCleanup(client.close)
        client.handshake(heartbeat=heartbeat)
        client.open_channel(1)
        return client

    def read_body(self, client, seen=None):
        """The body frames up to the end of this body; others go to `seen`."""
        digest, left = hashlib.sha256(), self.SIZE
        while left:
            received = client.read_frame(30, heartbeats=True)
            if received.kind == wire.FRAME_BODY:
                digest.update(received.payload)
                left -= len(received.payload)
            else:
                seen.append(received)
        self.assertEqual(digest.digest(), hashlib.sha256(self.body).digest())

    def test_answers_wait_behind_it_in_order(self):
        client = self.raw()
        client.open_channel(2)
        client.send(wire.basic_get(1, self.queue, no_ack=False), wire.basic_get(1, self.queue),
                    wire.queue_declare(2, "", 4), wire.basic_get(2, self.queue))
        client.expect(wire.BASIC_GET_OK)
        self.assertEqual(client.read_frame().kind, wire.FRAME_HEADER)
        self.read_body(client)
        client.expect(wire.BASIC_GET_EMPTY)
        client.expect(wire.QUEUE_DECLARE_OK)
        client.expect(wire.BASIC_GET_EMPTY)

    def test_heartbeats_go_between_its_frames(self):
        client = self.raw(heartbeat=1)
        client.send(wire.basic_get(1, self.queue))
        client.expect(wire.BASIC_GET_OK)
        self.assertEqual(client.read_frame().kind, wire.FRAME_HEADER)
        stop = threading.Event()

        def beat():
            while not stop.wait(0.3):
                client.send(wire.frame(wire.FRAME_HEARTBEAT, 0, b""))
        beating = threading.Thread(target=beat)
        beating.start()
        try:
            # Not reading for three intervals: the broker's beats are behind what is sent already.
            stop.wait(3)
            seen = []
            self.read_body(client, seen)
        finally:
            stop.set()
            beating.join()
        self.assertTrue(seen)
        self.assertTrue(all(frame.kind == wire.FRAME_HEARTBEAT for frame in seen), seen)

    def test_the_connection_can_be_closed(self):
        client = self.raw()
        client.send(wire.basic_get(1, self.queue, no_ack=False))
        client.expect(wire.BASIC_GET_OK)
        client.send(wire.method_frame(0, wire.CONNECTION_CLOSE,
                                      b"\0\xc8" + wire.short_string("") + bytes(4)))
        while (received := client.read_frame()).method != wire.CONNECTION_CLOSE_OK:
            self.assertNotEqual(received.kind, wire.FRAME_METHOD)
        client.await_closed()
        self.assertTrue(self.get(self.ch, self.queue)[2] == self.body)

    def test_the_channel_can_be_closed(self):
        client = self.raw()
        client.send(wire.basic_get(1, self.queue, no_ack=False))
        client.expect(wire.BASIC_GET_OK)
        client.send(wire.method_frame(1, wire.CHANNEL_CLOSE,
                                      b"\0\xc8" + wire.short_string("") + bytes(4)))
        client.read_frame()
        self.read_body(client)
        client.expect(wire.CHANNEL_CLOSE_OK)
        self.assertTrue(self.get(self.ch, self.queue)[2] == self.body)

    def test_a_consumer_that_vanishes_in_the_middle(self):
        for _ in range(5):
            client = self.raw()
            client.send(wire.basic_get(1, self.queue, no_ack=False))
            client.expect(wire.BASIC_GET_OK)
            client.read_frame()
            client.read_frame()
            client.close()
            method, _, body = self.get(self.ch, self.queue)
            self.assertTrue(method.redelivered and body == self.body)
            self.ch.basic_nack(method.delivery_tag, requeue=True)

    def test_the_broker_can_stop(self):
        client = self.raw()
        client.send(wire.basic_get(1, self.queue, no_ack=False))
        client.expect(wire.BASIC_GET_OK)
        self.broker.stop()
        self.broker.start()
        self.assertTrue(self.get(self.channel(), self.queue)[2] == self.body)

    def test_acknowledged_before_it_is_read(self):
        client = self.raw()
        client.send(wire.basic_get(1, self.queue, no_ack=True))
        client.expect(wire.BASIC_GET_OK)
        client.read_frame()
        self.ch.basic_publish("", self.queue, b"something durable behind it", PERSISTENT)
        self.read_body(client)
        self.await_small_disk(3 * MIB)


class Disk(LargeBodyCase):
    def test_fifty_queues_store_it_once(self):
        channel = self.confirm_channel()
        exchange = self.name("exchange")
        channel.exchange_declare(exchange, "fanout", durable=True)
        queues = [self.durable_queue(channel) for _ in range(50)]
        for queue in queues:
            channel.queue_bind(queue, exchange)
        body = body_of(64 * MIB, 5)
        channel.basic_publish(exchange, "", body, PERSISTENT)
        # Chunks are in the log until they are in a blob file.
        await_until(lambda: self.data_bytes() < 72 * MIB, 30, "the logs to go")
        self.assertGreater(self.data_bytes(), 63 * MIB)
        self.broker.restart_after_kill()
        channel = self.channel()
        for queue in queues[:49]:
            channel.queue_purge(queue)
        self.assertTrue(self.get(channel, queues[49], auto_ack=True, timeout_s=30)[2] == body)
        self.await_small_disk(3 * MIB)

    def test_a_damaged_chunk_is_not_served(self):
        channel = self.confirm_channel()
        queue = self.durable_queue(channel)
        channel.basic_publish("", queue, body_of(8 * MIB, 8), PERSISTENT)
        blobs = await_until(lambda: [path for path in self.broker.data_dir.glob("*.blob")
                                     if path.stat().st_size > 7 * MIB], 30, "the blob file")
        self.broker.stop()
        with open(blobs[0], "r+b") as blob:
            blob.seek(4 * MIB)
            byte = blob.read(1)
            blob.seek(4 * MIB)
            blob.write(bytes([byte[0] ^ 1]))
        self.broker.start()
        channel = self.channel()
        self.assert_connection_closed(541, lambda: channel.basic_get(queue))
        self.assertRegex(self.broker.output(), "reading chunk [0-9]+ of body [0-9]+: Corruption")
        self.assert_serving()

    def test_what_is_drained_gives_its_disk_back(self):
        """512 MiB of it, or SLUICE_DRAIN_MIB."""
        count = int(os.environ.get("SLUICE_DRAIN_MIB", "512")) // 32
        channel = self.confirm_channel()
        queue = self.durable_queue(channel)
        body = body_of(32 * MIB, 6)
        for _ in range(count):
            channel.basic_publish("", queue, body, PERSISTENT)
        self.assertGreater(self.data_bytes(), count * 31 * MIB)
        for _ in range(count):
            method, _, found = self.get(channel, queue, timeout_s=30)
            self.assertTrue(found == body)
            channel.basic_ack(method.delivery_tag)
        self.await_small_disk(20 * MIB)
        self.assertLess(self.data_bytes(), 200 * MIB)


class Memory(LargeBodyCase):
    """Twenty publishers and twenty consumers of 64 MiB each at the same time."""

    SIZE = 64 * MIB
    CLIENTS = 20
    # Memtables 32 MiB; what may be unwritten, and its copy in the write, 2 x 16; a publisher's chunk
    # and what was read behind it, 20 x 0.5; a consumer's unsent output and the chunk that is being
    # read, 20 x 1; 30 for an idle broker. Half as much again for the allocator.
    LIMIT = 190 * MIB

    def publisher(self, queue):
        connection = pika.BlockingConnection(self.parameters())
        channel = connection.channel()
        channel.confirm_delivery()
        channel.basic_publish("", queue, self.body, PERSISTENT)
        connection.close()

    def read_content(self, client, slow=False):
        """A delivery, through a parser that keeps nothing; returns its digest."""
        client.expect(wire.BASIC_DELIVER, 120)
        client.read_frame(60)
        digest, left = hashlib.sha256(), self.SIZE
        pause = threading.Event()
        while left:
            payload = client.read_frame(60).payload
            digest.update(payload)
            left -= len(payload)
            if slow:
                pause.wait(0.01)
        return digest.digest()

    def consumer(self, queue, results, number):
        with wire.RawConnection(self.broker) as client:
            client.handshake()
            client.open_channel()
            client.send(wire.method_frame(1, wire.BASIC_CONSUME, b"\0\0" + wire.short_string(queue)
                                          + wire.short_string("c") + b"\0" + wire.table()))
            client.expect(wire.BASIC_CONSUME_OK)
            if number == 0:  # vanishes in the middle
                client.expect(wire.BASIC_DELIVER, 120)
                for _ in range(50):
                    client.read_frame(60)
                client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                results[number] = True
                return
            results[number] = self.read_content(client, slow=number == 1) == self.digest
            client.send(wire.method_frame(1, wire.BASIC_ACK, struct.pack(">QB", 1, 0)))
            client.send(wire.method_frame(0, wire.CONNECTION_CLOSE,
                                          b"\0\xc8" + wire.short_string("") + bytes(4)))
            client.expect(wire.CONNECTION_CLOSE_OK)

    def test_it_stays_bounded(self):
        self.body = body_of(self.SIZE, 7)
        self.digest = hashlib.sha256(self.body).digest()
        channel = self.channel()
        queues = [self.durable_queue(channel) for _ in range(self.CLIENTS)]
        results = [False] * self.CLIENTS
        threads = [threading.Thread(target=self.publisher, args=(queue,)) for queue in queues]
        threads += [threading.Thread(target=self.consumer, args=(queue, results, number))
                    for number, queue in enumerate(queues)]
        for thread in threads:
            thread.start()
        peak = 0
        while any(thread.is_alive() for thread in threads):
            peak = max(peak, self.anonymous_bytes())
            threads[0].join(0.02)
            for thread in threads:
                if thread.is_alive():
                    thread.join(0.02)
                    break
        print(f"peak {peak / MIB:.0f} MiB ", end="", flush=True)
        self.assertEqual(results, [True] * self.CLIENTS)
        self.assertLess(peak, self.LIMIT)
        self.assertTrue(self.get(self.channel(), queues[0], timeout_s=60)[2] == self.body)
        for number in range(1, self.CLIENTS):
            self.assert_ready(self.channel(), queues[number], 0)


class Killed(LargeBodyCase):
    def test_nothing_confirmed_is_lost_and_no_chunks_stay(self):
        seed = int(os.environ.get("SLUICE_SEED", str(random.SystemRandom().randrange(1 << 32))))
        print(f"SLUICE_SEED={seed} ", end="", flush=True)
        rng = random.Random(seed)
        queue = self.durable_queue(self.channel())
        kept = set()
        number = 0
        for _ in range(4):
            confirmed, sent = set(), {}
            lock = threading.Lock()

            def publish(numbers, size):
                try:
                    connection = pika.BlockingConnection(self.parameters())
                    channel = connection.channel()
                    channel.confirm_delivery()
                    for this in numbers:
                        with lock:
                            sent[this] = size
                        channel.basic_publish("", queue, body_of(size, this), pika.BasicProperties(
                            delivery_mode=2, message_id=str(this)))
                        with lock:
                            confirmed.add(this)
                except (pika.exceptions.AMQPError, OSError):
                    pass
            acked = set()

            def consume():
                try:
                    channel = pika.BlockingConnection(self.parameters()).channel()
                    while True:
                        method, properties, body = channel.basic_get(queue)
                        if method is None:
                            continue
                        this = int(properties.message_id)
                        assert body == body_of(len(body), this)
                        if this % 2:
                            acked.add(this)
                            channel.basic_ack(method.delivery_tag)
                except (pika.exceptions.AMQPError, OSError):
                    pass
            threads = [threading.Thread(target=consume)]
            for _ in range(3):
                numbers = range(number, number + 50)
                number += 50
                threads.append(threading.Thread(
                    target=publish, args=(numbers, rng.randrange(300_000, 6 * MIB))))
            for thread in threads:
                thread.start()
            kill_after = rng.randrange(3, 30)
            deadline = Deadline(60)
            while len(confirmed) < kill_after and not deadline.passed():
                threads[1].join(0.005)
            self.broker.kill()
            for thread in threads:
                thread.join(30)
            self.broker.start()
            kept = self.check(queue, kept, confirmed, sent, acked)
        channel = self.channel()
        while channel.basic_get(queue, auto_ack=True)[0] is not None:
            pass
        self.await_small_disk(3 * MIB)

    def check(self, queue, kept, confirmed, sent, acked):
        """All that is there, whole; returns the numbers of what stays for the next round."""
        found = set()
        channel = self.channel()
        taken = []
        while True:
            method, properties, body = channel.basic_get(queue)
            if method is None:
                break
            this = int(properties.message_id)
            self.assertTrue(body == body_of(len(body), this))
            self.assertNotIn(this, found)
            found.add(this)
            taken.append((this, method.delivery_tag))
        self.assertEqual((kept | confirmed) - acked - found, set(), "lost")
        self.assertEqual(found - kept - set(sent), set(), "never published")
        # Orphans would show as bytes that no message accounts for.
        for this, tag in taken:
            if this % 4:
                channel.basic_ack(tag)
                found.discard(this)
        channel.connection.close()
        return found


if __name__ == "__main__":
    harness.main()
