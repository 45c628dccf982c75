"""The examples of sdk/examples, as their users would run them, and what a call of them costs."""

import json
import os
import socket
import sys
import tempfile
import unittest

import frames
from frames import INTEGER, TEXT, header, invocation, record
from program import Program, run_locally

BUILT = os.environ["SLUICE_EXAMPLES"]
SOURCES = os.environ["SLUICE_SOURCES"]
VALIDATE = [os.path.join(BUILT, "validate")]
TOTALS = [os.path.join(BUILT, "totals")]
ROUTE = [os.path.join(BUILT, "route")]
ENRICH = [sys.executable, "-m", "sluice", os.path.join(SOURCES, "sdk/examples/enrich.py:handle")]

LINE = b'10.0.0.7 - ann [23/Nov/2026:20:00:00 +0000] "GET /cart HTTP/1.1" %s 512\n'
GOOD_CALLS = {
    "validate": (VALIDATE, invocation([record(b"A-1007 12.50 EUR\n")])),
    "totals": (TOTALS, invocation([record(b"1250")], state=b"100", key=b"ann")),
    "route": (ROUTE, invocation([record(b'{"type":"payment","region":"eu"}')])),
    "enrich": (ENRICH, invocation([record(LINE % b"503")])),
}


class ExampleTestCase(unittest.TestCase):
    def start(self, command, **options):
        program = Program(command, **options)
        self.addCleanup(program.__exit__)
        return program

    def call(self, command, *arguments, **options):
        answer = self.start(command).call(invocation(*arguments, **options))
        self.assertIsNone(answer.failure)
        return answer


class Validate(ExampleTestCase):
    def test_a_batch_fails_its_bad_orders_alone(self):
        bad = [b"", b"A-1 x EUR", b"A-1 12.50 EURO", b"A-1 12.50 EUR x", b"A-1 12.5", b"A" * 200, b"A-1 1.50 E",
               b"A-1 12.50 EUR\0"]
        answer = self.call(VALIDATE, [record(b"A-1007 12.50 EUR\n")] + [
            record(each, attempt=2, headers=[header(b"shop", TEXT, b"north")]) for each in bad])
        self.assertEqual(list(answer.results), [0])
        self.assertEqual(json.loads(answer.results[0]), {"order": "A-1007", "cents": 1250, "currency": "EUR"})
        self.assertEqual(list(answer.failed), list(range(1, 1 + len(bad))))
        self.assertEqual(answer.logs[0], (2, "a bad order from north, attempt 2"))

    def test_in_a_shell(self):
        run = run_locally(VALIDATE, b"A-1007 12.50 EUR")
        self.assertEqual((run.returncode, run.stderr), (0, b""))
        self.assertEqual(json.loads(run.stdout)["cents"], 1250)
        run = run_locally(VALIDATE, b"nothing")
        self.assertEqual((run.returncode, run.stdout), (1, b""))
        self.assertEqual(run.stderr, b"failed: it has no order number\n")


class Totals(ExampleTestCase):
    def test_the_state_is_the_balance(self):
        program = self.start(TOTALS)
        answer = program.call(invocation([record(b"100"), record(b"-30")]))
        self.assertEqual((answer.state, answer.outputs), (b"70", []))
        answer = program.call(invocation([record(b"1x"), record(b"5"), record(b"9223372036854775807")], state=b"70"))
        self.assertEqual(answer.state, b"75")
        self.assertEqual(list(answer.failed), [0, 2])

    def test_below_zero_an_alert_goes_out_once(self):
        answer = self.call(TOTALS, [record(b"-80"), record(b"-1")], state=b"70", key=b"ann")
        self.assertEqual(answer.state, b"-11")
        alert, = answer.outputs
        self.assertEqual(alert.properties, {"routing_key": b"alerts", "body": b"-10"})
        self.assertEqual(alert.headers[0], (b"account", TEXT, b"ann"))
        self.assertEqual(alert.headers[1][:2], (b"balance", INTEGER))
        self.assertEqual(len(answer.logs), 1)

    def test_a_window_ends_with_the_balance(self):
        answer = self.call(TOTALS, [], state=b"70", flags=frames.WINDOW_END, window=(1, 2, 3))
        self.assertEqual(answer.results, {frames.WHOLE: b"70"})
        self.assertIsNone(answer.state)

    def test_in_a_shell_the_state_is_a_file(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "state")
            for amount, balance in ((b"100", b"100"), (b"-30", b"70")):
                run = run_locally(TOTALS, amount, {"SLUICE_STATE": path})
                self.assertEqual((run.returncode, run.stdout, run.stderr), (0, b"", b""))
                with open(path, "rb") as file:
                    self.assertEqual(file.read(), balance)
            run = run_locally(TOTALS, b"nothing", {"SLUICE_STATE": path})
            self.assertEqual(run.returncode, 1)
            with open(path, "rb") as file:
                self.assertEqual(file.read(), b"70")
        run = run_locally(TOTALS, b"-5\n")
        self.assertEqual(run.stderr, b"output /alerts: -5\nwarning: the balance fell to -5\nstate: -5\n")


class Route(ExampleTestCase):
    def test_events_go_where_they_belong(self):
        answer = self.call(ROUTE, [record(b'{"type":"payment","region":"eu"}', correlation_id=b"c", attempt=3,
                                          headers=[header(b"h", TEXT, b"v")]),
                                   record(b"{"), record(b'{"type":"fire","region":"us","alarm":true}')])
        self.assertEqual(list(answer.failed), [1])
        self.assertEqual([each.properties["routing_key"] for each in answer.outputs],
                         [b"payment.eu", b"fire.us", b"on-duty"])
        self.assertEqual([each.delay_ms for each in answer.outputs], [None, None, 60_000])
        self.assertEqual(answer.outputs[0].properties["correlation_id"], b"c")
        self.assertEqual([each[0] for each in answer.outputs[0].headers], [b"h", b"attempt"])
        self.assertEqual(answer.logs[0][0], 2)


class Enrich(ExampleTestCase):
    def test_lines_become_json(self):
        answer = self.call(ENRICH, [record(LINE % b"200"), record(b"\xff"), record(b"-"), record(LINE % b"503")])
        self.assertEqual(json.loads(answer.results[0])["path"], "/cart")
        self.assertEqual(sorted(answer.results), [0, 3])
        self.assertEqual(answer.failed[2], "it is not a line of a web server's log")
        self.assertTrue(answer.failed[1].startswith("UnicodeDecodeError: "), answer.failed)
        self.assertEqual([each.properties["routing_key"] for each in answer.outputs], [b"server-errors"])
        self.assertIn((2, "/cart answered 503"), answer.logs)
        # What was raised by mistake leaves its traceback; what was raised on purpose does not.
        self.assertEqual([line.splitlines()[0] for level, line in answer.logs if level == 3],
                         ["Traceback (most recent call last):"])


class Cost(ExampleTestCase):
    def test_a_call_is_one_read_and_one_write(self):
        for name, (command, frame) in GOOD_CALLS.items():
            with self.subTest(name):
                program = self.start(command, kind=socket.SOCK_SEQPACKET)
                for _ in range(3):
                    self.assertIsNone(program.packet_call(frame).failure)
                    self.assertEqual(program.packet_call(frame).failed, {})

    def test_a_small_call_changes_few_pages(self):
        # What is put back after a call; a page written with what it had is not seen here.
        for name, pages_max in (("validate", 16), ("totals", 16)):
            with self.subTest(name):
                command, frame = GOOD_CALLS[name]
                # The first call, as after a snapshot: nothing is warm.
                program = self.start(command)
                program.await_read()
                before = program.writable_pages()
                self.assertIsNone(program.call(frame).failure)
                program.await_read()
                after = program.writable_pages()
                changed = [at for at, content in after.items() if before.get(at) != content]
                print(f"{name}: {len(changed)} pages")
                self.assertLessEqual(len(changed), pages_max)
                self.assertGreater(len(changed), 0)


if __name__ == "__main__":
    unittest.main(verbosity=2)
