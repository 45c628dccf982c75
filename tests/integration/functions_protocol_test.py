"""The function protocol: batches, failed records, outputs, and what commits together.

The guest `obey` does what the bodies of its records say.
"""

import base64
import collections
import os
import signal

import pika

import harness
from harness.admin import AdminError
from harness.broker import Sluiced
from harness.functions import (BUSYBOX, PERSISTENT, FunctionTestCase, executor_arguments, guest)
from harness.process import children_of
from harness.wait import await_until


class ProtocolTestCase(FunctionTestCase):
    own_broker = True

    def make_broker(self):
        broker = Sluiced(executor_arguments())
        broker.start()
        return broker

    def setUp(self):
        super().setUp()
        self.ch = self.channel()
        self.ch.confirm_delivery()

    def publish(self, queue, *bodies, **properties):
        properties = pika.BasicProperties(**{"delivery_mode": 2, **properties})
        for body in bodies:
            self.ch.basic_publish("", queue, body, properties)

    def batches(self, bodies, function=None, **settings):
        """Subscribes to a queue that holds `bodies` already; (queue, results, subscription)."""
        queue = self.durable_queue(self.ch)
        self.publish(queue, *bodies)
        return self.subscribe(function or self.deploy("obey"), queue=queue, **settings)

    def idle(self, subscription):
        return self.await_counter(
            subscription, lambda s: s["in_flight"] == 0 and s["waiting_retry"] == 0 and s,
            "nothing to be in flight")


class Records(ProtocolTestCase):
    def test_a_record_says_all_about_its_message(self):
        queue, output, _ = self.subscribe(self.deploy("obey"))
        exchange = self.name("x")
        self.ch.exchange_declare(exchange, "fanout")
        self.ch.queue_bind(queue, exchange)
        self.ch.basic_publish(exchange, "the.key", b"describe", pika.BasicProperties(
            delivery_mode=2, content_type="text/plain", message_id="m", correlation_id="c",
            type="t", headers={"text": "v", "n": 5, "yes": True}))
        lines = self.get(self.ch, output, 30)[2].decode().split("\n")
        self.assertEqual(lines[0], "records=1 number=0 attempt=1 redelivered=0")
        self.assertEqual(lines[1:], [
            f"17={exchange}", "18=the.key", "19=text/plain", "21=m", "22=c", "24=t",
            f"25=1:text:{b'v'.hex()}", "25=3:n:0500000000000000", "25=5:yes:01"])

    def test_a_function_knows_its_attempt(self):
        _, output, _ = self.batches([b"describe\nfail-first not yet"], backoff_min_ms=10)
        text = self.get(self.ch, output, 30)[2].decode()
        self.assertIn("attempt=2 redelivered=1", text)

    def test_deploying_tells_whether_it_speaks_the_protocol(self):
        self.assertTrue(self.await_function(self.deploy("obey"))["protocol"])
        self.assertFalse(self.await_function(self.deploy("echo"))["protocol"])

    def test_large_bodies_in_a_batch(self):
        filler = b"x" * 700_000
        bodies = [b"size\nignored " + filler for _ in range(6)]
        _, output, subscription = self.batches(bodies, batch_size=6, batch_window_ms=3000)
        sizes = [int(body) for _, _, body in self.collect(self.ch, output, 6)]
        self.assertEqual(sizes, [6] * 6)
        self.assertEqual(self.idle(subscription)["calls"], 1)

    def test_a_batch_is_cut_before_it_is_too_large(self):
        body = b"size\nignored " + b"x" * (9 << 20)
        _, output, subscription = self.batches(
            [body] * 8, function=self.deploy("obey", memory_bytes=512 << 20, timeout_ms=60000),
            batch_size=8, batch_window_ms=5000)
        sizes = collections.Counter(
            int(body) for _, _, body in self.collect(self.ch, output, 8))
        self.assertEqual(sum(sizes.values()), 8)
        self.assertLess(max(sizes), 8)
        self.assertEqual(self.idle(subscription)["succeeded"], 8)

    def test_a_message_too_large_for_a_frame(self):
        queue, _, _ = self.batches([b"x" * (64 << 20)], max_attempts=1)
        _, properties, _ = self.dead_letters(self.ch, queue, 1)[0]
        self.assertEqual(properties.headers["x-sluice-outcome"], "input_limit")


class Batches(ProtocolTestCase):
    def test_what_is_there_goes_in_one_call(self):
        _, output, subscription = self.batches([b"size"] * 25, batch_size=10, concurrency=1)
        sizes = [int(body) for _, _, body in self.collect(self.ch, output, 25)]
        self.assertEqual(sorted(sizes), [5] * 5 + [10] * 20)
        counters = self.idle(subscription)
        self.assertEqual((counters["calls"], counters["records"], counters["succeeded"]),
                         (3, 25, 25))

    def test_the_window_waits_for_more(self):
        queue, output, _ = self.subscribe(self.deploy("obey"), batch_size=3,
                                          batch_window_ms=60_000)
        self.publish(queue, b"size", b"size")
        self.assertEqual(self.ready(self.ch, output), 0)
        self.publish(queue, b"size")
        self.assertEqual([b for _, _, b in self.collect(self.ch, output, 3)], [b"3"] * 3)

    def test_the_window_ends(self):
        queue, output, _ = self.subscribe(self.deploy("obey"), batch_size=1000,
                                          batch_window_ms=200)
        self.publish(queue, b"size", b"size")
        self.assertEqual([b for _, _, b in self.collect(self.ch, output, 2)], [b"2"] * 2)

    def test_limits_of_the_settings(self):
        function = self.deploy("obey")
        for name, most in (("batch_size", 10_000), ("batch_window_ms", 300_000)):
            for value in (most - 1, most):
                self.subscribe(function, **{name: value})
            with self.assertRaises(AdminError) as caught:
                self.subscribe(function, **{name: most + 1})
            self.assertEqual(caught.exception.status, 422)
            self.assertIn(name, caught.exception.reason)
            self.assertIn(str(most), caught.exception.reason)
        with self.assertRaises(AdminError) as caught:
            self.subscribe(function, batch_size=0)
        self.assertEqual(caught.exception.status, 422)

    def test_a_plain_program_takes_no_batches(self):
        with self.assertRaises(AdminError) as caught:
            self.subscribe(self.deploy("echo"), batch_size=2)
        self.assertEqual(caught.exception.status, 422)
        self.assertIn("plain program", caught.exception.reason)

    def test_changing_the_size_while_running_and_over_a_restart(self):
        function = self.deploy("obey")
        queue, output, subscription = self.subscribe(function, batch_size=1000,
                                                     batch_window_ms=300_000)
        self.publish(queue, *[b"size"] * 4)
        self.assertEqual(self.ready(self.ch, output), 0)
        result = {"exchange": "", "routing_key": output}
        self.admin.subscribe(subscription, queue, function, result=result, batch_size=2,
                             batch_window_ms=60_000)
        self.assertEqual([b for _, _, b in self.collect(self.ch, output, 4)], [b"2"] * 4)
        self.broker.kill()
        self.broker.start()
        settings = self.admin.subscription(subscription)
        self.assertEqual((settings["batch_size"], settings["batch_window_ms"]), (2, 60_000))
        self.ch = self.channel()
        self.publish(queue, *[b"size"] * 2)
        self.assertEqual([b for _, _, b in self.collect(self.ch, output, 2)], [b"2"] * 2)

    def test_pausing_gives_back_what_was_gathered(self):
        queue, _, subscription = self.subscribe(self.deploy("obey"), batch_size=1000,
                                                batch_window_ms=300_000)
        self.publish(queue, *[b"size"] * 5)
        self.admin.post(f"subscriptions/{subscription}/pause")
        self.assert_ready(self.ch, queue, 5)
        self.assertFalse(self.get(self.ch, queue)[0].redelivered)
        self.admin.delete(f"subscriptions/{subscription}")

    def test_deleting_gives_back_what_was_gathered(self):
        queue, _, subscription = self.subscribe(self.deploy("obey"), batch_size=1000,
                                                batch_window_ms=300_000)
        self.publish(queue, *[b"size"] * 5)
        self.admin.delete(f"subscriptions/{subscription}")
        self.assert_ready(self.ch, queue, 5)

    def test_taking_is_bounded(self):
        """One call that does not end and a batch behind it: the rest stays in the queue."""
        function = self.deploy("obey", timeout_ms=60_000)
        queue, _, subscription = self.batches([b"loop"] * 100, function=function, batch_size=10,
                                              concurrency=2)
        self.await_counter(subscription, lambda s: s["in_flight"] == 2, "two calls")
        self.assertEqual(self.ready(self.ch, queue), 80)
        self.assertEqual(self.admin.subscription(subscription)["records"], 20)


class Failures(ProtocolTestCase):
    def test_only_the_failed_records_are_tried_again(self):
        bodies = [b"fail number %d\ndescribe" % n if n % 3 == 0 else b"result %d" % n
                  for n in range(12)]
        queue, output, subscription = self.batches(
            bodies, batch_size=12, batch_window_ms=5000, max_attempts=3, backoff_min_ms=10)
        results = [int(body) for _, _, body in self.collect(self.ch, output, 8)]
        self.assertEqual(results, [n for n in range(12) if n % 3])
        dead = self.dead_letters(self.ch, queue, 4)
        self.assertEqual({p.headers["x-sluice-error"] for _, p, _ in dead},
                         {f"number {n}" for n in (0, 3, 6, 9)})
        self.assertEqual({p.headers["x-sluice-outcome"] for _, p, _ in dead}, {"failed"})
        self.assertEqual({p.headers["x-sluice-attempts"] for _, p, _ in dead}, {3})
        counters = self.idle(subscription)
        # The batch, and each of the four twice more, alone.
        self.assertEqual((counters["calls"], counters["records"]), (9, 20))
        self.assertEqual((counters["succeeded"], counters["failed"], counters["retried"],
                          counters["dead_lettered"]), (8, 12, 8, 4))

    def test_a_failed_records_result_is_not_published(self):
        _, output, subscription = self.batches([b"result too early\nfail-first no"],
                                               backoff_min_ms=10)
        self.assertEqual(self.get(self.ch, output, 30)[2], b"too early")
        self.idle(subscription)
        self.assert_ready(self.ch, output, 0)

    def fate_of_neighbours(self, poison, outcome, error=None, **config):
        """A poison record costs its neighbours one attempt, not their lives."""
        bodies = [b"describe"] * 4 + [poison] + [b"describe"] * 4
        queue, output, subscription = self.batches(
            bodies, function=self.deploy("obey", **config), batch_size=9,
            batch_window_ms=5000, max_attempts=2, backoff_min_ms=10)
        for _, _, body in self.collect(self.ch, output, 8):
            self.assertIn(b"records=1 number=0 attempt=2", body)
        _, properties, body = self.dead_letters(self.ch, queue, 1)[0]
        self.assertEqual(body, poison)
        self.assertEqual(properties.headers["x-sluice-outcome"], outcome)
        if error:
            self.assertRegex(properties.headers["x-sluice-error"], error)
        counters = self.idle(subscription)
        self.assertEqual((counters["calls"], counters["succeeded"], counters["failed"]),
                         (10, 8, 10))

    def test_what_failed_before_a_restart_is_tried_alone_after_it(self):
        function = self.deploy("obey")
        bodies = [b"describe"] * 3 + [b"failure all of it"]
        queue, output, _ = self.batches(bodies, function=function, batch_size=4,
                                        batch_window_ms=5000, max_attempts=2,
                                        backoff_min_ms=60_000, backoff_max_ms=60_000)
        self.admin.logs(function, wait_ms=20_000)
        self.broker.stop()
        self.broker.start()
        self.ch = self.channel()
        for _, _, body in self.collect(self.ch, output, 3):
            self.assertIn(b"records=1 number=0 attempt=2", body)
        self.dead_letters(self.ch, queue, 1)

    def test_a_failure_of_the_call(self):
        self.fate_of_neighbours(b"failure all of it", "failed", "^all of it$")

    def test_a_crash(self):
        self.fate_of_neighbours(b"crash", "exception")

    def test_an_exit(self):
        self.fate_of_neighbours(b"exit 3", "exit_status")

    def test_a_timeout(self):
        self.fate_of_neighbours(b"loop", "timeout", timeout_ms=500)

    def test_an_answer_that_breaks_the_rules(self):
        self.fate_of_neighbours(b"garbage", "bad_answer", "protocol")

    def test_no_answer_at_all(self):
        self.fate_of_neighbours(b"exit 0", "bad_answer", "without an answer")

    def test_a_state_without_a_stateful_subscription(self):
        self.fate_of_neighbours(b"state new", "bad_answer", "state")

    def test_an_output_to_an_unknown_exchange(self):
        exchange = self.name("missing")
        self.fate_of_neighbours(f"output {exchange} k text".encode(), "bad_answer", exchange)

    def test_an_output_to_an_unknown_queue(self):
        queue = self.name("missing")
        self.fate_of_neighbours(f"output - {queue} text".encode(), "bad_answer", queue)

    def test_long_messages_are_cut(self):
        queue, _, _ = self.batches([b"fail " + b"\xc3\xa4" * 50_000], max_attempts=1)
        _, properties, _ = self.dead_letters(self.ch, queue, 1)[0]
        self.assertEqual(properties.headers["x-sluice-error"], "\xe4" * 2048)

    def test_a_killed_executor_fails_a_batch_over_once(self):
        function = self.deploy("obey", timeout_ms=60_000)
        queue, _, subscription = self.batches([b"loop"] * 5, function=function, batch_size=5,
                                              batch_window_ms=5000, max_attempts=2)
        self.await_counter(subscription, lambda s: s["records"] == 5 and s["in_flight"] == 1,
                           "the batch to be out")
        os.kill(children_of(self.broker.pid)[0], signal.SIGKILL)
        counters = self.await_counter(subscription, lambda s: s["records"] == 10 and s,
                                      "its records to be out again, each alone")
        self.assertEqual((counters["failed"], counters["in_flight"]), (0, 5))
        self.admin.delete(f"subscriptions/{subscription}")
        self.assert_ready(self.ch, queue, 5)


class Outputs(ProtocolTestCase):
    def test_outputs_go_where_they_say(self):
        exchange, target = self.name("x"), self.durable_queue(self.ch)
        self.ch.exchange_declare(exchange, "direct")
        self.ch.queue_bind(target, exchange, "a")
        _, _, subscription = self.batches(
            [f"output {exchange} a one\noutput - {target} two".encode()])
        method, properties, body = self.get(self.ch, target, 30)
        self.assertEqual((method.exchange, method.routing_key, body), (exchange, "a", b"one"))
        self.assertEqual((properties.content_type, properties.delivery_mode), ("text/plain", 2))
        self.assertEqual(properties.headers, {"from": "guest"})
        method, _, body = self.get(self.ch, target, 30)
        self.assertEqual((method.exchange, method.routing_key, body), ("", target, b"two"))
        self.assertEqual(self.idle(subscription)["succeeded"], 1)

    def test_a_delayed_output_comes_later(self):
        target = self.durable_queue(self.ch)
        _, output, _ = self.batches(
            [f"delayed 1500 {target} late\noutput - {target} soon\nresult now".encode()])
        self.get(self.ch, output, 30)
        self.assertEqual(self.get(self.ch, target)[2], b"soon")
        self.assertEqual(self.ready(self.ch, target), 0)
        self.assertEqual(self.get(self.ch, target, 30)[2], b"late")

    def test_all_or_nothing(self):
        """One output of a batch that can not be: nothing of the batch is published."""
        target, missing = self.durable_queue(self.ch), self.name("missing")
        good = f"output - {target} good\nresult good".encode()
        bad = f"output - {target} bad\nresult bad\noutput {missing} k text".encode()
        queue, output, subscription = self.batches(
            [good, bad, good], batch_size=3, batch_window_ms=5000, max_attempts=3,
            backoff_min_ms=10)
        self.dead_letters(self.ch, queue, 1)
        self.idle(subscription)
        for where in (target, output):
            self.assert_ready(self.ch, where, 2)
            self.assertEqual({b for _, _, b in self.collect(self.ch, where, 2)}, {b"good"})

    def test_results_by_record_and_of_the_whole(self):
        queue, output, _ = self.subscribe(self.deploy("obey"), batch_size=3,
                                          batch_window_ms=60_000)
        replies = self.exclusive_queue(self.ch)
        self.publish(queue, b"result one", correlation_id="1")
        self.publish(queue, b"result two", correlation_id="2", reply_to=replies)
        self.publish(queue, b"result three\nwhole all", message_id="3")
        arrived = {(body, properties.correlation_id)
                   for _, properties, body in self.collect(self.ch, output, 3)}
        self.assertEqual(arrived, {(b"all", None), (b"one", "1"), (b"three", "3")})
        _, properties, body = self.get(self.ch, replies, 30)
        self.assertEqual((body, properties.correlation_id), (b"two", "2"))

    def test_a_result_that_no_queue_takes_fails_the_call(self):
        target = self.durable_queue(self.ch)
        queue, _, _ = self.batches(
            [f"output - {target} text\nresult lost".encode()], max_attempts=2, backoff_min_ms=10,
            result={"exchange": "", "routing_key": self.name("nowhere")})
        _, properties, _ = self.dead_letters(self.ch, queue, 1)[0]
        self.assertIn("nowhere", properties.headers["x-sluice-error"])
        self.assert_ready(self.ch, target, 0)

    def test_a_function_may_feed_its_own_queue(self):
        queue = self.durable_queue(self.ch)
        _, output, _ = self.subscribe(self.deploy("obey"), queue=queue, batch_size=4)
        self.publish(queue, f"output - {queue} result fed".encode())
        self.assertEqual(self.get(self.ch, output, 30)[2], b"fed")

    def test_killed_in_the_middle_nothing_is_lost_and_nothing_twice(self):
        """Each message becomes one output, and leaves its queue with it."""
        target = self.durable_queue(self.ch)
        function = self.deploy("obey")
        count = 3000
        bodies = [f"output - {target} {n}".encode() for n in range(count)]
        queue, _, subscription = self.batches(bodies, function=function, batch_size=20,
                                              result=None)
        for _ in range(3):
            before = self.ready(self.ch, target)
            await_until(lambda: self.ready(self.ch, target) > before
                        or self.ready(self.ch, queue) == 0, 60, "outputs")
            self.broker.kill()
            self.broker.start()
            self.ch = self.channel()
            self.await_function(function, states=("ready", "unloaded"))
        self.await_counter(subscription, lambda s: s["in_flight"] == 0
                           and self.admin.queue(queue)["messages"] == 0, "the queue to be empty",
                           timeout_s=90)
        numbers = sorted(int(body) for _, _, body in
                         self.collect(self.ch, target, self.ready(self.ch, target)))
        self.assertEqual(numbers, list(range(count)))


class Logs(ProtocolTestCase):
    def test_log_lines_are_in_the_functions_log(self):
        function = self.deploy("obey")
        _, output, _ = self.batches([b"log 1 first\nlog 3 second\nprint printed\nresult done"],
                                    function=function)
        self.get(self.ch, output, 30)
        entry = self.admin.logs(function, wait_ms=5000)[-1]
        self.assertEqual((entry["outcome"], entry["log"]),
                         ("ok", "printed\ninfo: first\nerror: second\n"))

    def test_failed_records_are_in_the_functions_log(self):
        function = self.deploy("obey")
        queue, _, _ = self.batches([b"fail this one", b"result 1"], function=function,
                                   batch_size=2, batch_window_ms=5000, max_attempts=1)
        self.dead_letters(self.ch, queue, 1)
        self.assertEqual(self.admin.logs(function)[-1]["message"],
                         "1 of 2 records failed, the first one: this one")

    def test_log_lines_go_with_a_dead_letter(self):
        queue, _, _ = self.batches([b"log 2 look here\nfail no"], max_attempts=1)
        _, properties, _ = self.dead_letters(self.ch, queue, 1)[0]
        self.assertEqual(properties.headers["x-sluice-log"], "warning: look here\n")


class Invoking(ProtocolTestCase):
    def test_the_answer_is_shown_and_nothing_published(self):
        function, target = self.deploy("obey"), self.durable_queue(self.ch)
        done = self.admin.invoke(function, "\n".join([
            "result out", "log 1 line", "state next", f"output - {target} text"]).encode())
        self.assertEqual((done["outcome"], done["output"]), ("ok", b"out"))
        answer = done["answer"]
        self.assertEqual(answer["results"], [
            {"record": 0, "payload_base64": base64.b64encode(b"out").decode()}])
        self.assertEqual(base64.b64decode(answer["state_base64"]), b"next")
        self.assertEqual(answer["logs"], [{"level": "info", "text": "line"}])
        output = answer["outputs"][0]
        self.assertEqual((output["exchange"], output["routing_key"], output["headers"],
                          base64.b64decode(output["payload_base64"])),
                         ("", target, {"from": "guest"}, b"text"))
        self.assertEqual((answer["failure"], answer["failed"], answer["drop_state"]),
                         (None, [], False))
        self.assertEqual(self.ready(self.ch, target), 0)

    def test_state_and_routing_key_by_a_form(self):
        function = self.deploy("obey")
        done = self.admin.invoke(function, b"getstate", state=b"before \x00\xff")
        self.assertEqual(done["output"], b"before \x00\xff")
        done = self.admin.invoke(function, b"describe", routing_key=b"the.key")
        self.assertIn(b"\n18=the.key", done["output"])

    def test_failures(self):
        function = self.deploy("obey")
        done = self.admin.invoke(function, b"failure no")
        self.assertEqual((done["outcome"], done["message"], done["answer"]["failure"]),
                         ("failed", "no", "no"))
        done = self.admin.invoke(function, b"fail not this")
        self.assertEqual((done["outcome"], done["message"]), ("failed", "not this"))
        self.assertEqual(done["answer"]["failed"], [{"record": 0, "message": "not this"}])
        done = self.admin.invoke(function, b"garbage")
        self.assertEqual((done["outcome"], done["answer"]), ("bad_answer", None))

    def test_a_plain_program_has_no_answer_and_takes_no_state(self):
        function = self.deploy("echo")
        self.assertIsNone(self.admin.invoke(function, b"x")["answer"])
        self.assertEqual(self.admin.invoke(function, b"x", routing_key=b"k")["output"], b"x")
        with self.assertRaises(AdminError) as caught:
            self.admin.invoke(function, b"x", state=b"s")
        self.assertEqual(caught.exception.status, 422)


class Versions(ProtocolTestCase):
    def test_a_new_version_takes_over_without_losing_a_call(self):
        """Under load: each message is handled once, by one version or the other, none fails."""
        function = self.deploy("obey", env=["VERSION=1"])
        queue, output, subscription = self.subscribe(function, batch_size=5, concurrency=4)
        publisher = self.channel()
        publisher.confirm_delivery()
        count, sent, collected = 600, 0, []
        version = 1
        while len(collected) < count:
            while sent < count and sent - len(collected) < 60:
                self.publish(queue, b"version", correlation_id=str(sent))
                sent += 1
            if version < 4 and len(collected) > 120 * version:
                version += 1
                self.admin.deploy(function, guest("obey"), env=[f"VERSION={version}"])
            collected += self.collect(self.ch, output, 10)
        numbers = sorted(int(p.correlation_id) for _, p, _ in collected)
        self.assertEqual(numbers, list(range(count)))
        versions = [int(body) for _, _, body in collected]
        self.assertEqual(set(versions), {1, 2, 3, 4})
        self.assertEqual(versions[-10:], [4] * 10)
        counters = self.idle(subscription)
        self.assertEqual((counters["succeeded"], counters["failed"]), (count, 0))

    def test_calls_under_way_end_with_the_version_that_they_began_with(self):
        function = self.deploy("obey", timeout_ms=3000)
        queue, _, subscription = self.batches([b"loop"], function=function, max_attempts=1)
        self.await_counter(subscription, lambda s: s["in_flight"] == 1, "the call")
        self.admin.deploy(function, guest("obey"), timeout_ms=100)
        _, properties, _ = self.dead_letters(self.ch, queue, 1)[0]
        self.assertEqual(properties.headers["x-sluice-outcome"], "timeout")

    def test_a_plain_version_in_the_place_of_one_that_took_batches(self):
        function = self.deploy("obey")
        queue, output, _ = self.subscribe(function, batch_size=10, batch_window_ms=1000)
        self.publish(queue, *[b"size"] * 3)
        self.admin.deploy(function, BUSYBOX, args=["cat"])
        self.publish(queue, *[b"size"] * 3)
        bodies = [body for _, _, body in self.collect(self.ch, output, 6)]
        self.assertEqual(bodies[-3:], [b"size"] * 3)


if __name__ == "__main__":
    harness.main()
