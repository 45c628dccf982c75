"""Exchanges and bindings: the four types, declaring, deleting, and where a message goes."""


import pika

import harness


class Routing(harness.BrokerTestCase):
    def setUp(self):
        super().setUp()
        self.ch = self.channel()

    def exchange(self, kind, **arguments):
        name = self.name("x")
        self.ch.exchange_declare(name, kind, auto_delete=True, **arguments)
        return name

    def bound(self, exchange, key="", arguments=None):
        """A queue of its own, bound to the exchange."""
        queue = self.exclusive_queue(self.ch)
        self.ch.queue_bind(queue, exchange, key, arguments)
        return queue

    def bodies(self, queue):
        """Drains a queue of this connection."""
        found = []
        while (message := self.ch.basic_get(queue, auto_ack=True))[0] is not None:
            found.append(message[2].decode())
        return found

    def publish_keys(self, exchange, *keys):
        for key in keys:
            self.ch.basic_publish(exchange, key, key.encode())

    def test_direct_goes_by_equal_keys(self):
        exchange = self.exchange("direct")
        red, blue = self.bound(exchange, "red"), self.bound(exchange, "blue")
        both = self.bound(exchange, "red")
        self.ch.queue_bind(both, exchange, "blue")
        self.publish_keys(exchange, "red", "blue", "green", "re", "redd", "RED", "")
        self.assertEqual(self.bodies(red), ["red"])
        self.assertEqual(self.bodies(blue), ["blue"])
        self.assertEqual(self.bodies(both), ["red", "blue"])

    def test_a_queue_gets_one_copy_however_many_bindings_match(self):
        exchange = self.exchange("topic")
        queue = self.bound(exchange, "#")
        self.ch.queue_bind(queue, exchange, "a.*")
        self.ch.queue_bind(queue, exchange, "*.b")
        self.publish_keys(exchange, "a.b")
        self.assertEqual(self.bodies(queue), ["a.b"])

    def test_fanout_ignores_the_key(self):
        exchange = self.exchange("fanout")
        queues = [self.bound(exchange, key) for key in ("", "x", "y")]
        self.publish_keys(exchange, "whatever", "x")
        for queue in queues:
            self.assertEqual(self.bodies(queue), ["whatever", "x"])

    def test_topic_wildcards(self):
        keys = ["", "a", "a.b", "a.b.c", "b", "b.a", ".", "a.", ".a", "a..b", "..", "a.b.c.d",
                "*", "#", "a.*", "aa.b"]
        expected = {
            "#": set(keys),
            "*": {"a", "b", "*", "#"},
            "": {""},
            "a": {"a"},
            "a.b": {"a.b"},
            "a.*": {"a.b", "a.", "a.*"},
            "*.a": {"b.a", ".a"},
            "a.#": {"a", "a.b", "a.b.c", "a.", "a..b", "a.b.c.d", "a.*"},
            "#.a": {"a", "b.a", ".a"},
            "#.c": {"a.b.c"},
            "*.*": {"a.b", "b.a", ".", "a.", ".a", "a.*", "aa.b"},
            "a.*.b": {"a..b"},
            "a.#.b": {"a.b", "a..b"},
            "*.#": set(keys) - {""},
            "#.*": set(keys) - {""},
            "#.#": set(keys),
            "#.b.#": {"a.b", "a.b.c", "b", "b.a", "a..b", "a.b.c.d", "aa.b"},
            "*.*.*": {"a.b.c", "a..b", ".."},
            "a.#.d": {"a.b.c.d"},
            "a.#.#.d": {"a.b.c.d"},
            "a.*.#.*": {"a.b.c", "a..b", "a.b.c.d"},
            "a*": set(),
            "a#": set(),
        }
        exchange = self.exchange("topic")
        queues = {pattern: self.bound(exchange, pattern) for pattern in expected}
        self.publish_keys(exchange, *keys)
        for pattern, queue in queues.items():
            with self.subTest(pattern=pattern):
                self.assertEqual(sorted(self.bodies(queue)), sorted(expected[pattern]))

    def test_topic_long_keys(self):
        exchange = self.exchange("topic")
        key = ".".join(["a"] * 128)
        self.assertEqual(len(key), 255)
        exact, wide = self.bound(exchange, key), self.bound(exchange, "#.a.#.a.#.a.#.b")
        self.publish_keys(exchange, key)
        self.assertEqual(self.bodies(exact), [key])
        self.assertEqual(self.bodies(wide), [])

    def test_headers_all_and_any(self):
        exchange = self.exchange("headers")
        everything = self.bound(exchange, "", {"x-match": "all", "colour": "red", "size": 3})
        anything = self.bound(exchange, "", {"x-match": "any", "colour": "red", "size": 3})
        default = self.bound(exchange, "", {"colour": "red", "size": 3})
        cases = {"both": {"colour": "red", "size": 3}, "more": {"colour": "red", "size": 3, "z": 1},
                 "one": {"colour": "red"}, "other": {"size": 3, "colour": "blue"},
                 "none": {"colour": "blue"}, "empty": {}}
        for body, headers in cases.items():
            self.ch.basic_publish(exchange, "ignored", body.encode(),
                                  pika.BasicProperties(headers=headers))
        self.ch.basic_publish(exchange, "ignored", b"no headers at all")
        self.assertEqual(self.bodies(everything), ["both", "more"])
        self.assertEqual(self.bodies(anything), ["both", "more", "one", "other"])
        self.assertEqual(self.bodies(default), ["both", "more"])

    def test_headers_x_arguments_do_not_take_part_and_void_means_present(self):
        exchange = self.exchange("headers")
        ignores = self.bound(exchange, "", {"x-match": "all", "x-extra": "1", "colour": "red"})
        present = self.bound(exchange, "", {"x-match": "all", "colour": None})
        for body, headers in {"red": {"colour": "red"}, "blue": {"colour": "blue"},
                              "neither": {"size": 1}}.items():
            self.ch.basic_publish(exchange, "", body.encode(),
                                  pika.BasicProperties(headers=headers))
        self.assertEqual(self.bodies(ignores), ["red"])
        self.assertEqual(self.bodies(present), ["red", "blue"])

    def test_headers_without_arguments(self):
        exchange = self.exchange("headers")
        everything = self.bound(exchange, "", {"x-match": "all"})
        anything = self.bound(exchange, "", {"x-match": "any"})
        self.ch.basic_publish(exchange, "", b"m", pika.BasicProperties(headers={"a": 1}))
        self.assertEqual(self.bodies(everything), ["m"])
        self.assertEqual(self.bodies(anything), [])

    def test_headers_unknown_x_match_is_refused(self):
        exchange, queue = self.exchange("headers"), self.exclusive_queue(self.ch)
        self.assert_channel_closed(406, lambda: self.ch.queue_bind(
            queue, exchange, "", {"x-match": "sometimes"}))

    def test_the_default_exchange_goes_by_queue_name(self):
        queue = self.exclusive_queue(self.ch)
        self.ch.basic_publish("", queue, b"here")
        self.assertEqual(self.bodies(queue), ["here"])

    def test_predeclared_exchanges_route(self):
        for exchange, arguments in (("amq.direct", None), ("amq.fanout", None), ("amq.topic", None),
                                    ("amq.headers", {"x-match": "any", "k": "v"}),
                                    ("amq.match", {"x-match": "any", "k": "v"})):
            with self.subTest(exchange=exchange):
                queue = self.bound(exchange, "key", arguments)
                self.ch.basic_publish(exchange, "key", b"m", pika.BasicProperties(headers={"k": "v"}))
                self.assertEqual(self.bodies(queue), ["m"])

    def test_unbind_stops_the_flow_and_repeats_without_error(self):
        exchange = self.exchange("direct")
        keep = self.bound(exchange, "k")
        queue = self.bound(exchange, "k")
        self.ch.queue_unbind(queue, exchange, "k")
        self.ch.queue_unbind(queue, exchange, "k")
        self.publish_keys(exchange, "k")
        self.assertEqual(self.bodies(queue), [])
        self.assertEqual(self.bodies(keep), ["k"])

    def test_binding_twice_is_one_binding(self):
        exchange = self.exchange("direct")
        queue = self.bound(exchange, "k")
        self.ch.queue_bind(queue, exchange, "k")
        self.bound(exchange, "keeps the exchange")
        self.publish_keys(exchange, "k")
        self.assertEqual(self.bodies(queue), ["k"])
        self.ch.queue_unbind(queue, exchange, "k")
        self.publish_keys(exchange, "k")
        self.assertEqual(self.bodies(queue), [])

    def test_bindings_that_differ_in_arguments_are_two(self):
        exchange = self.exchange("headers")
        queue = self.bound(exchange, "", {"x-match": "all", "a": 1})
        self.ch.queue_bind(queue, exchange, "", {"x-match": "all", "b": 2})
        self.ch.queue_unbind(queue, exchange, "", {"x-match": "all", "a": 1})
        for headers in ({"a": 1}, {"b": 2}):
            self.ch.basic_publish(exchange, "", repr(headers).encode(),
                                  pika.BasicProperties(headers=headers))
        self.assertEqual(self.bodies(queue), ["{'b': 2}"])

    def test_an_empty_queue_name_means_the_last_declared_one(self):
        exchange = self.exchange("direct")
        queue = self.exclusive_queue(self.ch)
        self.ch.queue_bind("", exchange, "k")
        self.publish_keys(exchange, "k")
        self.assertEqual(self.bodies(queue), ["k"])

    def test_a_deleted_queue_takes_its_bindings_along(self):
        exchange, queue = self.name("x"), self.name()
        self.ch.exchange_declare(exchange, "fanout")
        self.addCleanup(self.ch.exchange_delete, exchange)
        self.ch.queue_declare(queue, exclusive=True)
        self.ch.queue_bind(queue, exchange)
        self.ch.queue_delete(queue)
        self.ch.queue_declare(queue, exclusive=True)
        self.publish_keys(exchange, "k")
        self.assertEqual(self.bodies(queue), [])


class Declaring(harness.BrokerTestCase):
    def setUp(self):
        super().setUp()
        self.ch = self.channel()

    def declared(self, kind="direct", **arguments):
        exchange = self.name("x")
        self.ch.exchange_declare(exchange, kind, **arguments)
        self.addCleanup(lambda: self.channel().exchange_delete(exchange))
        return exchange

    def test_again_with_the_same_properties(self):
        exchange = self.declared("topic", durable=True)
        self.ch.exchange_declare(exchange, "topic", durable=True)

    def test_again_with_another_type(self):
        exchange = self.declared("topic")
        self.assert_channel_closed(
            406, lambda: self.ch.exchange_declare(exchange, "direct"), "PRECONDITION_FAILED")

    def test_again_with_other_flags(self):
        for change in ({"durable": True}, {"auto_delete": True}, {"internal": True}):
            with self.subTest(change=change):
                exchange, channel = self.declared(), self.channel()
                self.assert_channel_closed(
                    406, lambda ch=channel, x=exchange, c=change: ch.exchange_declare(
                        x, "direct", **c))

    def test_passive_finds_an_exchange_whatever_its_type(self):
        exchange = self.declared("fanout")
        self.ch.exchange_declare(exchange, "direct", passive=True)

    def test_passive_on_an_unknown_one(self):
        self.assert_channel_closed(
            404, lambda: self.ch.exchange_declare(self.name("x"), passive=True), "NOT_FOUND")

    def test_unknown_type_is_command_invalid(self):
        connection = self.connect()
        channel = connection.channel()
        self.assert_connection_closed(
            503, lambda: channel.exchange_declare(self.name("x"), "no-such-type"))
        self.assert_serving()

    def test_reserved_names_are_refused(self):
        self.assert_channel_closed(
            403, lambda: self.ch.exchange_declare("amq.mine", "direct"), "ACCESS_REFUSED")

    def test_predeclared_ones_may_be_declared_as_they_are(self):
        for name, kind in (("amq.direct", "direct"), ("amq.fanout", "fanout"),
                           ("amq.topic", "topic"), ("amq.headers", "headers"),
                           ("amq.match", "headers")):
            self.ch.exchange_declare(name, kind, durable=True)
            self.ch.exchange_declare(name, passive=True)

    def test_predeclared_ones_can_not_be_deleted(self):
        self.assert_channel_closed(403, lambda: self.ch.exchange_delete("amq.direct"))

    def test_the_default_exchange_can_be_neither_deleted_nor_bound(self):
        for action in (lambda ch: ch.exchange_delete(""),
                       lambda ch: ch.queue_bind(self.exclusive_queue(ch), "", "k")):
            channel = self.channel()
            self.assert_channel_closed(403, lambda a=action, ch=channel: a(ch))

    def test_publish_to_an_unknown_exchange(self):
        def publish():
            self.ch.basic_publish(self.name("x"), "k", b"m")
            self.ch.queue_declare("", exclusive=True)
        self.assert_channel_closed(404, publish, "NOT_FOUND")

    def test_publish_to_an_internal_exchange(self):
        exchange = self.declared("fanout", internal=True)

        def publish():
            self.ch.basic_publish(exchange, "k", b"m")
            self.ch.queue_declare("", exclusive=True)
        self.assert_channel_closed(403, publish)

    def test_bind_to_an_unknown_exchange_or_queue(self):
        exchange = self.declared()
        for bind in (lambda ch: ch.queue_bind(self.exclusive_queue(ch), self.name("x"), "k"),
                     lambda ch: ch.queue_bind(self.name(), exchange, "k")):
            channel = self.channel()
            self.assert_channel_closed(404, lambda b=bind, ch=channel: b(ch))

    def test_delete(self):
        exchange = self.name("x")
        self.ch.exchange_declare(exchange, "direct")
        self.ch.exchange_delete(exchange)
        self.ch.exchange_delete(exchange)  # Nothing to delete is not an error.
        self.assert_channel_closed(
            404, lambda: self.ch.exchange_declare(exchange, passive=True))

    def test_delete_if_unused(self):
        exchange = self.declared()
        queue = self.exclusive_queue(self.ch)
        self.ch.queue_bind(queue, exchange, "k")
        channel = self.channel()
        self.assert_channel_closed(
            406, lambda: channel.exchange_delete(exchange, if_unused=True))
        self.ch.queue_unbind(queue, exchange, "k")
        self.ch.exchange_delete(exchange, if_unused=True)

    def test_auto_delete_goes_with_its_last_binding(self):
        exchange = self.name("x")
        self.ch.exchange_declare(exchange, "direct", auto_delete=True)
        queue = self.exclusive_queue(self.ch)
        self.ch.queue_bind(queue, exchange, "one")
        self.ch.queue_bind(queue, exchange, "two")
        self.ch.queue_unbind(queue, exchange, "one")
        self.ch.exchange_declare(exchange, passive=True)
        self.ch.queue_unbind(queue, exchange, "two")
        self.assert_channel_closed(
            404, lambda: self.ch.exchange_declare(exchange, passive=True))

    def test_names_can_be_up_to_255_bytes_and_any_utf8(self):
        for name in (self.name("ü 漢字 "), ("x" * 255)):
            self.ch.exchange_declare(name, "fanout", auto_delete=True)
            queue = self.exclusive_queue(self.ch)
            self.ch.queue_bind(queue, name)
            self.ch.basic_publish(name, "", b"m")
            self.assertEqual(self.get(self.ch, queue)[2], b"m")


if __name__ == "__main__":
    harness.main()
