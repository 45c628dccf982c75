"""SIGKILL to the executor or the broker in the middle of calls: every message is accounted for."""

import collections
import hashlib
import os
import random
import signal

import pika

import harness
from harness.functions import BUSYBOX, PERSISTENT, FunctionTestCase
from harness.publisher import ConfirmedPublisher, parse_body


class ExecutorKilled(FunctionTestCase):
    own_broker = True

    def test_nothing_is_lost(self):
        function = self.deploy(BUSYBOX, args=["sha256sum"])
        queue, output, subscription = self.subscribe(function, concurrency=8)
        channel = self.channel()
        channel.confirm_delivery()
        inputs = [f"message {number}".encode() for number in range(1500)]
        killed = 0
        for number, data in enumerate(inputs):
            channel.basic_publish("", queue, data, PERSISTENT)
            if number % 400 == 300:
                killed += self.kill_executor()
        self.assertGreaterEqual(killed, 3)
        results = collections.Counter(
            body for _, _, body in self.collect(channel, output, len(inputs), timeout_s=60))
        expected = collections.Counter(
            f"{hashlib.sha256(data).hexdigest()}  -\n".encode() for data in inputs)
        # One result for each input: its ack and its result are one write.
        self.assertEqual(results, expected)
        self.assert_ready(channel, queue, 0)
        self.assertEqual(self.ready(channel, output), 0)
        self.assertGreaterEqual(self.admin.get("overview")["executor"]["restarts"], 3)
        counters = self.admin.subscription(subscription)
        self.assertEqual(counters["dead_lettered"], 0)

    def kill_executor(self):
        before = harness.await_until(self.broker.executor_pids, 20, "an executor to run")
        for pid in before:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        harness.await_until(
            lambda: set(self.broker.executor_pids()) - set(before), 20, "a new executor")
        return 1

    def test_calls_in_flight_are_tried_again(self):
        function = self.deploy("loop", timeout_ms=1500)
        queue, _, subscription = self.subscribe(function, max_attempts=1, concurrency=2)
        channel = self.channel()
        channel.confirm_delivery()
        for _ in range(2):
            channel.basic_publish("", queue, b"m", PERSISTENT)
        self.await_counter(subscription, lambda s: s["in_flight"] >= 1, "a call in flight")
        self.kill_executor()
        # A lost executor is not the message's failure: the attempt does not count.
        for _, properties, _ in self.dead_letters(channel, queue, 2, timeout_s=60):
            self.assertEqual(properties.headers["x-sluice-outcome"], "timeout")

    def test_calls_by_hand_end_with_a_reason_and_work_again(self):
        function = self.deploy("echo")
        self.kill_executor()

        def works():
            try:
                return self.admin.invoke(function, b"m")["output"] == b"m"
            except harness.admin.AdminError as error:
                self.assertEqual(error.status, 503)
                return False
        harness.await_until(works, 20, "the function to work again")


class BrokerKilled(FunctionTestCase):
    own_broker = True

    def test_in_the_middle_of_publishing_and_of_calls(self):
        """Each confirmed input is queued or its result is; never neither, never both."""
        seed = int(os.environ.get("SLUICE_SEED", str(random.SystemRandom().randrange(1 << 32))))
        print(f"SLUICE_SEED={seed} ", end="", flush=True)
        rng = random.Random(seed)
        function = self.deploy("echo")
        queue, output, subscription = self.subscribe(function, concurrency=4)
        confirmed, attempted = set(), set()
        for round_number in range(5):
            publishers = [ConfirmedPublisher(
                self.parameters(), queue, f"p{round_number}.{n}", rng.getrandbits(32),
                window=rng.choice((10, 100, 300)), size_max=600) for n in range(2)]
            for publisher in publishers:
                publisher.start()
            kill_at = rng.randrange(200, 2000)
            harness.await_until(lambda ps=publishers, k=kill_at: sum(p.sent for p in ps) >= k,
                                60, "enough messages to be sent")
            self.broker.kill()
            for publisher in publishers:
                publisher.join(timeout=30)
                confirmed |= {(publisher.publisher, n) for n in publisher.confirmed}
                attempted |= {(publisher.publisher, n) for n in range(publisher.sent)}
            self.broker.start()
            self.account(queue, output, subscription, confirmed, attempted)
        self.finish(queue, output, subscription, confirmed, attempted)

    def account(self, queue, output, subscription, confirmed, attempted):
        """With the subscription at rest: inputs and results together are what was confirmed."""
        self.admin.post(f"subscriptions/{subscription}/pause")
        self.await_counter(
            subscription, lambda s: s["in_flight"] == 0 and s["waiting_retry"] == 0, "calls to end")
        waiting = [parse_body(body) for body in self.peek(queue)]
        done = [parse_body(body) for body in self.peek(output)]
        twice = [key for key, count in collections.Counter(waiting + done).items() if count > 1]
        self.assertEqual(twice[:10], [], "both queued and answered, or answered twice")
        self.assertEqual(sorted(confirmed - set(waiting) - set(done))[:10], [], "lost")
        self.assertEqual(sorted((set(waiting) | set(done)) - attempted)[:10], [], "never published")
        self.admin.post(f"subscriptions/{subscription}/resume")

    def peek(self, queue):
        """The bodies in a queue, which stay in it: got by a connection that then just closes."""
        connection = self.connect()
        channel = connection.channel()
        bodies = []
        while (message := channel.basic_get(queue))[0] is not None:
            bodies.append(message[2])
        connection.close()
        return bodies

    def finish(self, queue, output, subscription, confirmed, attempted):
        self.await_counter(
            subscription, lambda s: s["in_flight"] == 0 and s["waiting_retry"] == 0
            and self.admin.queue(queue)["messages"] == 0, "all calls to end", timeout_s=120)
        results = collections.Counter(parse_body(body) for body in self.peek(output))
        self.assertEqual([key for key, count in results.items() if count > 1][:10], [], "twice")
        self.assertEqual(sorted(confirmed - set(results))[:10], [], "no result")
        self.assertEqual(sorted(set(results) - attempted)[:10], [], "never published")

    def test_functions_and_subscriptions_survive(self):
        function = self.deploy(BUSYBOX, args=["sha256sum"], memory_bytes=48 << 20)
        self.admin.deploy(function, BUSYBOX, args=["cat"])
        self.await_function(function)
        queue, output, subscription = self.subscribe(function, concurrency=3, max_attempts=7)
        paused = self.subscribe(function)
        self.admin.post(f"subscriptions/{paused[2]}/pause")
        self.broker.restart_after_kill()
        versions = self.admin.get(f"functions/{function}/versions")
        self.assertEqual([(f["version"], f["args"]) for f in versions],
                         [(1, ["sha256sum"]), (2, ["cat"])])
        kept = self.admin.subscription(subscription)
        self.assertEqual((kept["concurrency"], kept["max_attempts"], kept["paused"]), (3, 7, False))
        self.assertTrue(self.admin.subscription(paused[2])["paused"])
        self.await_function(function)
        channel = self.channel()
        channel.basic_publish("", queue, b"m", PERSISTENT)
        self.assertEqual(self.get(channel, output, 30)[2], b"m")

    def test_messages_that_wait_for_a_retry_are_kept(self):
        queue, output, subscription = self.subscribe(
            self.deploy("exit_status"), max_attempts=5, backoff_min_ms=60000, backoff_max_ms=60000)
        channel = self.channel()
        channel.confirm_delivery()
        for number in range(5):
            channel.basic_publish("", queue, b"1", pika.BasicProperties(
                delivery_mode=2, message_id=str(number)))
        self.await_counter(subscription, lambda s: s["waiting_retry"] == 5, "five to wait")
        self.broker.restart_after_kill()
        self.admin.delete(f"subscriptions/{subscription}")
        channel = self.channel()
        self.assert_ready(channel, queue, 5)
        self.assertEqual({p.message_id for _, p, _ in self.collect(channel, queue, 5)},
                         {str(number) for number in range(5)})

    def test_stop_with_calls_in_flight(self):
        queue, _, subscription = self.subscribe(self.deploy("loop", timeout_ms=60000))
        channel = self.channel()
        channel.confirm_delivery()
        for _ in range(4):
            channel.basic_publish("", queue, b"m", PERSISTENT)
        self.await_counter(subscription, lambda s: s["in_flight"] >= 1, "a call in flight")
        self.broker.stop()
        self.broker.start()
        self.admin.delete(f"subscriptions/{subscription}")
        self.assert_ready(self.channel(), queue, 4)


if __name__ == "__main__":
    harness.main()
