"""What is special to a language: handlers of records, exceptions, logging, seeds, loops of one's own."""

import json
import os
import sys
import tempfile
import time
import unittest

import frames
from frames import invocation, record
from program import Program, run_locally

BUILT = os.environ.get("SLUICE_TEST_PROGRAMS", "")
ERROR_LEVEL = 3


class HandlerTestCase(unittest.TestCase):
    maxDiff = 4000

    def start(self, command, **options):
        program = Program(command, **options)
        self.addCleanup(program.__exit__)
        return program


class InCpp(HandlerTestCase):
    def test_what_it_throws_fails_that_record_alone(self):
        program = self.start([os.path.join(BUILT, "each")])
        answer = program.call(invocation(
            [record(b"one"), record(b"throw"), record(b"throw 7"), record(b"misuse"), record(b"two")]))
        self.assertIsNone(answer.failure)
        self.assertEqual(answer.results, {0: b"one", 4: b"two"})
        self.assertEqual(answer.failed, {
            1: "thrown", 2: "something was thrown that is not a std::exception",
            3: "publish: an output's property is not UTF-8"})
        self.assertEqual([each.properties["body"] for each in answer.outputs], [b"one", b"two"])
        self.assertEqual(answer.state, b"two")
        self.assertEqual([line for _, line in answer.logs], ["one", "throw", "throw 7", "misuse", "two"])

    def test_the_state_of_a_failed_record_is_that_of_the_one_before(self):
        answer = self.start([os.path.join(BUILT, "each")]).call(invocation([record(b"one"), record(b"throw")]))
        self.assertEqual(answer.state, b"one")

    def test_no_result_and_the_headers_of_a_temporary(self):
        answer = self.start([os.path.join(BUILT, "each")]).call(invocation(
            [record(b"names", headers=[frames.header(b"a", frames.NONE), frames.header(b"b", frames.NONE)]),
             record(b"none")]))
        self.assertEqual((answer.results, answer.failed), ({0: b"ab"}, {}))

    def test_a_seed_is_fresh_in_each_call(self):
        program = self.start([os.path.join(BUILT, "each")])
        seeds = {program.call(invocation([record(b"seed")])).results[0] for _ in range(20)}
        self.assertEqual(len(seeds), 20)
        self.assertEqual({len(seed) for seed in seeds}, {64})

    def test_remaining_time(self):
        program = self.start([os.path.join(BUILT, "each")])
        deadline_ns = time.time_ns() + 90_000_000_000
        left = int(program.call(invocation([record(b"remaining")], deadline_ns=deadline_ns)).results[0])
        self.assertTrue(60_000 < left <= 90_000, left)
        self.assertEqual(program.call(invocation([record(b"remaining")])).results[0], b"0")


class InC(HandlerTestCase):
    def test_a_loop_of_ones_own(self):
        program = self.start([os.path.join(BUILT, "loop")])
        self.assertEqual(program.call(invocation([record(b"r")])).results, {frames.WHOLE: b""})
        program.send(invocation([record(b"r")]))
        self.assertEqual(program.wait(), 0, program.stderr())


    def test_an_answer_without_memory_is_a_failure(self):
        program = self.start([os.path.join(BUILT, "conformance_c")], memory_bytes=64 << 20)

        def big(size):
            headers = [frames.header(b"size", frames.INTEGER, size)]
            return program.call(invocation([record(do=b"big", headers=headers)]))

        # The program's own copy fits the limit, and no second one beside it.
        answer = big(40 << 20)
        self.assertEqual(answer.failure, "there is no memory for the answer")
        self.assertEqual(answer.results, {})
        self.assertEqual(len(big(1 << 20).results[0]), 1 << 20)

    def test_an_invocation_without_memory_is_refused(self):
        program = self.start([os.path.join(BUILT, "conformance_c")], memory_bytes=32 << 20)
        program.send((40 << 20).to_bytes(4, "little"))
        self.assertEqual(program.wait(), 1)
        self.assertIn(b"no memory", program.stderr())


class InPython(HandlerTestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.app = os.path.join(folder.name, "app.py")

    def write(self, source):
        with open(self.app, "w", encoding="utf-8") as file:
            file.write(source)

    def command(self, *arguments):
        return [sys.executable, "-m", "sluice", *arguments]

    def start_app(self, source, name=":handle", *flags):
        self.write(source)
        return self.start(self.command(*flags, self.app + name))

    def test_what_a_handler_returns_is_the_result(self):
        program = self.start_app("def handle(record): return eval(record.text)")
        cases = {"b'bytes'": b"bytes", "bytearray(b'x')": b"x", "'text \u00e9'": "text \u00e9".encode(),
                 "{'a': [1, None]}": b'{"a": [1, null]}', "0": b"0", "False": b"false", "''": b"", "[]": b"[]"}
        answer = program.call(invocation([record(each.encode()) for each in cases] + [record(b"None")]))
        self.assertEqual(answer.failed, {})
        self.assertEqual(answer.results, dict(enumerate(cases.values())))

    def test_what_it_raises_fails_that_record_alone(self):
        program = self.start_app("""
import sluice
def handle(record):
    record.call.log("seen " + record.text)
    record.call.publish(record.body, "q")
    record.call.state = record.body
    if record.text == "raise":
        raise KeyError("missing")
    if record.text == "fail":
        raise sluice.Failed("on purpose")
    if record.text == "object":
        return object()
    return record.text
""")
        answer = program.call(invocation(
            [record(b"one"), record(b"raise"), record(b"fail"), record(b"object"), record(b"two"), record(b"\xff")],
            state=b"s"))
        self.assertIsNone(answer.failure)
        self.assertEqual(answer.results, {0: b"one", 4: b"two"})
        self.assertEqual(sorted(answer.failed), [1, 2, 3, 5])
        self.assertEqual(answer.failed[1], "KeyError: 'missing'")
        self.assertEqual(answer.failed[2], "on purpose")
        self.assertEqual([each.properties["body"] for each in answer.outputs], [b"one", b"two"])
        self.assertEqual(answer.state, b"two")
        tracebacks = [line for level, line in answer.logs if level == ERROR_LEVEL]
        self.assertEqual(len(tracebacks), 3)
        self.assertIn('raise KeyError("missing")', tracebacks[0])
        self.assertNotIn("sluice.py", tracebacks[0])

    def test_a_batch_handler_fails_all(self):
        source = "import sluice\n@sluice.batch_handler\ndef run_it(call):\n    call.publish('x', 'q')\n    return call.records[0].json()['a']\n"
        program = self.start_app(source, "")
        self.assertEqual(program.call(invocation([record(b'{"a": "yes"}')])).results, {frames.WHOLE: b"yes"})
        answer = program.call(invocation([record(b"{}")]))
        self.assertEqual(answer.failure, "KeyError: 'a'")
        self.assertEqual(answer.outputs, [])
        # The same by the flag, and by name although it is decorated.
        for flags, name in ((["--batch"], ":run_it"), ([], ":run_it")):
            program = self.start_app(source, name, *flags)
            self.assertEqual(program.call(invocation([record(b'{"a": "yes"}')])).results, {frames.WHOLE: b"yes"})

    def test_records_of_a_batch_see_the_state_that_the_one_before_set(self):
        program = self.start_app("""
def handle(record):
    record.call.state = record.call.state_json(0) + record.json()
    return record.call.state
""")
        answer = program.call(invocation([record(b"5"), record(b"no"), record(b"7")], state=b"1"))
        self.assertEqual((answer.state, answer.results), (b"13", {0: b"6", 2: b"13"}))

    def test_logging_goes_into_the_log_with_its_level(self):
        program = self.start_app("""
import logging
logging.getLogger().setLevel(1)
def handle(record):
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL, 5, 35):
        logging.log(level, "at %d", level)
""")
        self.assertEqual(program.call(invocation([record()])).logs, [
            (0, "at 10"), (1, "at 20"), (2, "at 30"), (3, "at 40"), (3, "at 50"), (0, "at 5"), (2, "at 35")])

    def test_random_is_seeded_in_each_call(self):
        program = self.start_app("import random\nrandom.seed(1)\ndef handle(record): return random.random()")
        once = {program.call(invocation([record()])).results[0] for _ in range(5)}
        # As after a snapshot: another process, the same state up to the first read.
        again = self.start_app("import random\nrandom.seed(1)\ndef handle(record): return random.random()")
        self.assertEqual(len(once | {again.call(invocation([record()])).results[0]}), 6)

    def test_a_hook_gets_a_fresh_seed(self):
        program = self.start_app("""
import sluice
seeds = []
sluice.on_call(seeds.append)
def handle(record): return seeds[-1].hex()
""")
        seeds = {program.call(invocation([record()])).results[0] for _ in range(5)}
        self.assertEqual((len(seeds), {len(seed) for seed in seeds}), (5, {64}))

    def test_a_rehearsal_leaves_nothing_but_what_the_handler_keeps(self):
        program = self.start_app("""
import sluice
count = 0
def handle(record):
    global count
    count += 1
    record.call.publish(record.body, "q")
    record.call.state = b"s"
    return str(count)
sluice.rehearse(handle, {"a": 1}, times=5)
""")
        answer = program.call(invocation([record(b"real")]))
        self.assertEqual((answer.results, len(answer.outputs)), ({0: b"6"}, 1))
        self.assertEqual(answer.outputs[0].properties["body"], b"real")
        # What it raises there is told before the first call, when a function is deployed.
        self.write("import sluice\nsluice.rehearse(lambda record: record.json(), 'no json')\n")
        run = run_locally(self.command(self.app), b"")
        self.assertEqual(run.returncode, 1)
        self.assertIn(b"JSONDecodeError", run.stderr)

    def test_an_invocation_without_memory_is_refused(self):
        self.write("def handle(record): pass")
        program = self.start(self.command(self.app + ":handle"), memory_bytes=60 << 20)
        program.send((60 << 20).to_bytes(4, "little"))
        self.assertEqual(program.wait(), 1)
        self.assertEqual(program.stderr(), b"sluice: the invocation can not be served: there is no memory for it\n")

    def test_cycles_do_not_pile_up(self):
        program = self.start_app("""
def handle(record):
    for _ in range(1000):
        cycle = [bytearray(1000)]
        cycle.append(cycle)
""")
        for _ in range(50):
            program.call(invocation([record()]))
        before = program.resident_bytes()
        for _ in range(200):
            program.call(invocation([record()]))
        # 200 MB of cycles were made.
        self.assertLess(program.resident_bytes(), before + (40 << 20))

    def test_limits_of_the_log_and_of_items(self):
        program = self.start_app("""
def handle(record):
    what, count = record.json()
    for _ in range(count):
        record.call.log("") if what == "log" else record.call.publish("")
    if what == "bytes":
        record.call.log("x" * count)
        record.call.log("y")
""")

        def call(what, count):
            return program.call(invocation([record(json.dumps([what, count]).encode())]))

        for count in (16383, 16384):
            self.assertEqual(call("log", count).logs, [(1, "")] * count)
        self.assertEqual(call("log", 16385).logs[-1], (2, "1 more log lines were dropped"))
        for count in (65535, 65536):
            self.assertEqual(len(call("output", count).outputs), count)
        self.assertEqual(call("output", 65537).failure, "the answer has too many items")

    def test_a_record_kept_from_an_earlier_call_does_not_show_the_next_one(self):
        program = self.start_app("""
kept = []
def handle(record):
    kept.append(record)
    return kept[0].body
""")
        self.assertEqual(program.call(invocation([record(b"one")])).results[0], b"one")
        self.assertEqual(program.call(invocation([record(b"two")])).results[0], b"one")
        program = self.start_app("""
kept = []
def handle(record):
    kept.append(record)
    if len(kept) > 1:
        return kept[0].body
""")
        program.call(invocation([record(b"one")]))
        self.assertEqual(list(program.call(invocation([record(b"two")])).failed), [0])

    def test_in_a_shell(self):
        self.write("""
import logging, sluice
def handle(record):
    logging.warning("careful")
    if record.text == "bad":
        raise sluice.Failed("it is bad")
    record.call.publish("out", "q")
    if record.text == "drop":
        del record.call.state
    else:
        record.call.state = record.call.state_json(0) + 1
    return {"ok": True}
""")
        run = run_locally(self.command(self.app), b"x")
        self.assertEqual((run.returncode, run.stdout), (0, b'{"ok": true}'))
        self.assertEqual(run.stderr, b"output /q: out\nwarning: careful\nstate: 1\n")
        run = run_locally(self.command(self.app), b"bad")
        self.assertEqual((run.returncode, run.stdout, run.stderr), (1, b"", b"failed: it is bad\nwarning: careful\n"))
        state = {"SLUICE_STATE": self.app + ".state"}
        for expected in (b"1", b"2"):
            run_locally(self.command(self.app), b"x", state)
            with open(state["SLUICE_STATE"], "rb") as file:
                self.assertEqual(file.read(), expected)
        run_locally(self.command(self.app), b"bad", state)
        self.assertTrue(os.path.exists(state["SLUICE_STATE"]))
        run_locally(self.command(self.app), b"drop", state)
        self.assertFalse(os.path.exists(state["SLUICE_STATE"]))

    def test_a_wrong_command_line_says_so(self):
        self.write("x = 1\n")
        for arguments in ((), ("--other",), (self.app,), (self.app + ":x",), (self.app, "more")):
            run = run_locally(self.command(*arguments), b"")
            self.assertEqual(run.returncode, 2, run.stderr)
            self.assertEqual(len(run.stderr.splitlines()), 1, run.stderr)

    def test_an_app_may_run_itself(self):
        self.write("import sys, sluice\nsys.exit(sluice.run(lambda record: record.body.upper()))\n")
        program = self.start([sys.executable, self.app])
        self.assertEqual(program.call(invocation([record(b"up")])).results, {0: b"UP"})


if __name__ == "__main__":
    unittest.main(verbosity=2)
