"""What every SDK must do, the same for each: conformance_test.py COMMAND... runs the conformance
program of one language (conformance/describe.md) and asserts it. SLUICE_SEED repeats a random run.
"""

import math
import os
import random
import struct
import sys
import tempfile
import unittest
import zlib

import frames
from frames import BOOLEAN, BYTES, FLOAT, INTEGER, NONE, TABLE, TEXT, TIME, WHOLE
from frames import header, invocation, item, record
from program import Program, run_locally

COMMAND = []

KINDS = {NONE: "none", TEXT: "text", BYTES: "bytes", INTEGER: "integer", FLOAT: "float",
         BOOLEAN: "boolean", TIME: "time", TABLE: "table"}


def blob(data):
    if data is None:
        return "-"
    return f"{len(data)}#{zlib.crc32(data):08x}" if len(data) > 64 else "x" + data.hex()


def described_record(body=b"", *, id=1, published_ms=2, attempt=1, redelivered=0, headers=(),
                     **properties):
    lines = [f"record {id} {published_ms} {attempt} {redelivered}", f"body {blob(body)}",
             f"exchange {blob(properties.get('exchange', b''))}",
             f"routing_key {blob(properties.get('routing_key', b''))}"]
    for name in list(frames.PROPERTY_TAGS)[3:]:
        lines.append(f"{name} {blob(properties.get(name))}")
    return lines + list(headers)


def described(records, *, window_end=0, deadline_ns=3, timeout_ms=4, state=None, state_version=0,
              key=None, window="-"):
    lines = [f"call {window_end} {deadline_ns} {timeout_ms} {len(records)}", f"state {blob(state)}",
             f"state_version {state_version}", f"key {blob(key)}", f"window {window}"]
    for each in records:
        lines += each
    return "".join(line + "\n" for line in lines)


class ConformanceTestCase(unittest.TestCase):
    maxDiff = 4000

    def start(self, env=None):
        program = Program(COMMAND, env)
        self.addCleanup(program.__exit__)
        return program

    def assert_described(self, answer, expected):
        self.assertIsNone(answer.failure)
        self.assertEqual(answer.results[WHOLE].decode(), expected)

    def assert_serves(self, program):
        self.assert_described(program.call(invocation([record(b"again")])),
                              described([described_record(b"again")]))

    def assert_ends_well(self, program):
        program.end_input()
        self.assertEqual(program.wait(), 0, program.stderr())
        self.assertEqual(program.rest(), b"")


class WhatComes(ConformanceTestCase):
    def test_a_record_alone(self):
        program = self.start()
        self.assert_described(program.call(invocation([record(b"hello")])),
                              described([described_record(b"hello")]))
        self.assert_ends_well(program)

    def test_everything_a_call_can_have(self):
        everything = {name: f"{name} \u00e9".encode() for name in list(frames.PROPERTY_TAGS)[1:]}
        full = dict(id=2 ** 64 - 1, published_ms=2 ** 63, attempt=2 ** 32 - 1)
        answer = self.start().call(invocation(
            [record(b"\0\xff", flags=1, **full, **everything), record()],
            deadline_ns=2 ** 64 - 1, timeout_ms=2 ** 32 - 1, state=b"st\0te", state_version=2 ** 64 - 1,
            key=b"k", window=(1, 2 ** 64 - 1, 3)))
        self.assert_described(answer, described(
            [described_record(b"\0\xff", redelivered=1, **full, **everything), described_record()],
            deadline_ns=2 ** 64 - 1, timeout_ms=2 ** 32 - 1, state=b"st\0te", state_version=2 ** 64 - 1,
            key=b"k", window=f"1 {2 ** 64 - 1} 3"))

    def test_empty_is_not_absent(self):
        answer = self.start().call(invocation([record(content_type=b"")], state=b"", key=b""))
        self.assert_described(answer, described([described_record(content_type=b"")], state=b"", key=b""))

    def test_headers_of_all_kinds(self):
        nan = struct.pack("<Q", 0x7FF8000000000123)
        headers = [
            header(b"nothing", NONE), header(b"text", TEXT, "z\u00fcrich".encode()), header(b"", TEXT, b""),
            header(b"bytes", BYTES, b"\0\xff"), header(b"low", INTEGER, -2 ** 63),
            header(b"high", INTEGER, 2 ** 63 - 1), header(b"pi", FLOAT, math.pi),
            header(b"infinite", FLOAT, -math.inf), header(b"nan", FLOAT, nan), header(b"zero", FLOAT, -0.0),
            header(b"yes", BOOLEAN, 1), header(b"no", BOOLEAN, 0), header(b"odd", BOOLEAN, 255),
            header(b"then", TIME, 1_700_000_000), header(b"before", TIME, -1), header(b"table", TABLE, b"t\0"),
            header(b"n" * 255, TEXT, b"v" * 70_000), header(b"twice", INTEGER, 1), header(b"twice", INTEGER, 2),
        ]
        lines = [
            "nothing none", "text text " + blob("z\u00fcrich".encode()), " text x", "bytes bytes x00ff",
            f"low integer {-2 ** 63}", f"high integer {2 ** 63 - 1}",
            f"pi float {struct.unpack('<Q', struct.pack('<d', math.pi))[0]:016x}",
            "infinite float fff0000000000000", "nan float 7ff8000000000123", "zero float 8000000000000000",
            "yes boolean 1", "no boolean 0", "odd boolean 1", "then time 1700000000", "before time -1",
            "table table x7400", "n" * 255 + " text " + blob(b"v" * 70_000), "twice integer 1",
            "twice integer 2"]
        expected = [f"header {blob(name.encode())} {value}"
                    for name, _, value in (line.partition(" ") for line in lines)]
        answer = self.start().call(invocation([record(b"b", headers=headers)]))
        self.assert_described(answer, described([described_record(b"b", headers=expected)]))

    def test_a_batch_keeps_its_order(self):
        records = [record(b"%d" % i, id=i, attempt=i + 1) for i in range(1000)]
        self.assert_described(self.start().call(invocation(records)), described(
            [described_record(b"%d" % i, id=i, attempt=i + 1) for i in range(1000)]))

    def test_the_last_call_of_a_window_may_have_no_records(self):
        answer = self.start().call(invocation([], flags=frames.WINDOW_END, state=b"s", window=(0, 0, 7)))
        self.assert_described(answer, described([], window_end=1, state=b"s", window="0 0 7"))

    def test_items_of_a_later_version_are_passed_over(self):
        later = item(99, b"later") + item(255, b"")
        answer = self.start().call(invocation(
            [record(b"b", extra=later + item(5, b"x"), headers=[header(b"h", 9, b"new")])], extra=later, key=b"k"))
        self.assert_described(answer, described(
            [described_record(b"b", headers=["header x68 other x6e6577"])], key=b"k"))

    def test_fixed_items_may_have_grown(self):
        grown = item(2, struct.pack("<Q", 5) + b"more") + item(4, struct.pack("<QQQ", 1, 2, 3) + b"more")
        headers = [header(b"i", INTEGER, struct.pack("<q", -1) + b"more"), header(b"b", BOOLEAN, b"\1more"),
                   header(b"t", TIME, struct.pack("<q", 9) + b"more")]
        answer = self.start().call(invocation([record(b"b", headers=headers)], extra=grown))
        self.assert_described(answer, described(
            [described_record(b"b", headers=["header x69 integer -1", "header x62 boolean 1",
                                             "header x74 time 9"])], state_version=5, window="1 2 3"))


class HowItComes(ConformanceTestCase):
    def test_byte_by_byte(self):
        program = self.start()
        frame = invocation([record(b"slowly", headers=[header(b"h", INTEGER, 1)])], state=b"s")
        for i in range(len(frame)):
            program.send(frame[i:i + 1])
        self.assert_described(program.receive(), described(
            [described_record(b"slowly", headers=["header x68 integer 1"])], state=b"s"))
        self.assert_ends_well(program)

    def test_several_frames_at_once(self):
        program = self.start()
        program.send(b"".join(invocation([record(b"%d" % i)]) for i in range(50)))
        for i in range(50):
            self.assert_described(program.receive(), described([described_record(b"%d" % i)]))
        self.assert_ends_well(program)

    def test_frames_around_the_size_of_the_buffer(self):
        program = self.start()
        overhead = len(invocation([record()]))
        for size in (65535, 65536, 65537, 2 * 65536 - 1, 2 * 65536, 2 * 65536 + 1):
            body = bytes([size % 251]) * (size - overhead)
            frame = invocation([record(body)])
            self.assertEqual(len(frame), size)
            self.assert_described(program.call(frame), described([described_record(body)]))
            # What follows a long one is read into the larger buffer.
            self.assert_serves(program)
        self.assert_ends_well(program)

    def test_large_frames_in_pieces(self):
        program = self.start()
        for size in (1 << 20, 20 << 20):
            body = os.urandom(1 << 16) * (size >> 16)
            self.assert_described(program.call(invocation([record(body)])), described([described_record(body)]))
        self.assert_serves(program)
        self.assert_ends_well(program)

    def test_the_longest_invocation(self):
        overhead = len(invocation([record()])) - 4
        longest = (64 << 20) - overhead
        program = self.start()
        body = bytes(longest)
        self.assert_described(program.call(invocation([record(body)])), described([described_record(body)]))
        program.send((64 << 20).to_bytes(4, "little")[:3])
        program.end_input()
        self.assertNotEqual(program.wait(), 0)

    def test_one_byte_more_than_the_longest_is_refused(self):
        program = self.start()
        program.send(((64 << 20) + 1).to_bytes(4, "little"))
        # At once, not only when so much has come.
        self.assertEqual(program.wait(), 1)
        self.assertIn(b"longer than 64 MiB", program.stderr())

    def test_the_stream_may_end_before_the_first_call(self):
        self.assert_ends_well(self.start())

    def test_many_calls_do_not_grow_it(self):
        program = self.start()
        frame = invocation([record(b"x" * 3000, do=b"log", headers=[header(b"level", INTEGER, 1)]),
                            record(b"y" * 3000, do=b"result")], state=b"s" * 1000)

        def calls(count):
            for _ in range(count):
                self.assertIsNone(program.call(frame).failure)
            return program.resident_bytes(), program.descriptors()

        calls(500)
        resident, descriptors = calls(500)
        later, descriptors_later = calls(2000)
        # A leak of one record would be 6 MB; a collector's heap may breathe.
        self.assertLess(later, resident + (4 << 20))
        self.assertEqual(descriptors_later, descriptors)
        self.assert_ends_well(program)

    def test_large_calls_are_not_kept(self):
        program = self.start()
        frame = invocation([record(b"z" * (2 << 20), do=b"result")])
        for _ in range(5):
            program.call(frame)
        before = program.resident_bytes()
        for _ in range(60):
            program.call(frame)
        # 120 MiB came.
        self.assertLess(program.resident_bytes(), before + (24 << 20))

    def assert_refuses(self, data):
        """It ends by itself, with a status and a sentence, and answers nothing."""
        program = self.start()
        program.send(data)
        program.end_input()
        self.assertEqual(program.wait(), 1, program.stderr())
        self.assertEqual(program.rest(), b"")
        self.assertIn(b"sluice: ", program.stderr())

    def test_a_frame_cut_short_is_refused(self):
        frame = invocation([record(b"body", headers=[header(b"h", TEXT, b"v")])], state=b"s")
        for size in (1, 3, 4, 5, 23, len(frame) // 2, len(frame) - 1):
            with self.subTest(size=size):
                self.assert_refuses(frame[:size])

    def test_what_breaks_the_protocol_is_refused(self):
        good = record(b"b")
        short_header = good + item(25, b"\1\0")
        cases = {
            "version": invocation([good], version=2),
            "no version": invocation([good], version=0),
            "nothing": (0).to_bytes(4, "little"),
            "too short": (19).to_bytes(4, "little") + bytes(19),
            "no records": invocation([]),
            "fewer records": invocation([good], count=2),
            "more records": invocation([good, good], count=1),
            "records without end": invocation([good], count=2 ** 32 - 1),
            "an item's header cut": invocation([good], extra=b"\1\0\0"),
            "a short version of the state": invocation([good], extra=item(2, bytes(7))),
            "a short window": invocation([good], extra=item(4, bytes(23))),
            "a short record": invocation([good[:23]]),
            "a record with half an item": invocation([good + b"\x10\0"]),
            "a record whose item is too long": invocation([good + b"\x19\xff\xff\xff\xff"]),
            "a header of two bytes": invocation([short_header]),
            "a header with a long name": invocation([good + item(25, b"\1\xff\xffname")]),
            "a short integer": invocation([record(headers=[header(b"i", INTEGER, bytes(7))])]),
            "a short float": invocation([record(headers=[header(b"f", FLOAT, bytes(7))])]),
            "a short time": invocation([record(headers=[header(b"t", TIME, b"")])]),
            "no truth value": invocation([record(headers=[header(b"b", BOOLEAN, b"")])]),
        }
        # An item that claims a byte more than the frame has.
        frame = bytearray(invocation([good]))
        at = 24 + 1
        frame[at:at + 4] = (len(good) + 1).to_bytes(4, "little")
        cases["an item too long"] = bytes(frame)
        # The same with one that nobody looks into.
        content = invocation([good])[4:] + b"\x63" + (4).to_bytes(4, "little") + b"abc"
        cases["an unknown item too long"] = len(content).to_bytes(4, "little") + content
        for name, data in cases.items():
            with self.subTest(name):
                self.assert_refuses(data)

    def test_mangled_frames_never_crash_it(self):
        seed = int(os.environ.get("SLUICE_SEED", random.randrange(1 << 32)))
        generator = random.Random(seed)
        frame = invocation([record(b"body", content_type=b"t", headers=[
            header(b"i", INTEGER, 1), header(b"t", TEXT, b"v"), header(b"b", BOOLEAN, 1)]), record()],
                           state=b"s", state_version=1, key=b"k", window=(1, 2, 3))
        program = self.start()
        for _ in range(60):
            mangled = bytearray(frame)
            for _ in range(generator.randrange(1, 4)):
                # The length field is left alone: its cases have tests of their own.
                mangled[generator.randrange(4, len(mangled))] = generator.choice((0, 1, 127, 128, 255))
            program.send(mangled)
            program.end_input()
            status = program.wait()
            self.assertIn(status, (0, 1), f"seed {seed}: {mangled.hex()}: {program.stderr()}")
            rest = program.rest()
            self.assertEqual(status == 0, len(rest) > 4, f"seed {seed}: {mangled.hex()}")
            if rest:
                frames.Answer(rest[4:])
            program = self.start()

    def test_a_descriptor_that_is_none_is_refused(self):
        for value in ("", "three", "-1", "3x", "99999999999999999999", "777"):
            with self.subTest(value):
                run = run_locally(COMMAND, b"", {"SLUICE_FD": value})
                self.assertEqual(run.returncode, 1, run.stderr)
                self.assertIn(b"sluice: ", run.stderr)


class TheAnswer(ConformanceTestCase):
    def test_results_of_records(self):
        answer = self.start().call(invocation(
            [record(b"one", do=b"result"), record(b"two"), record(b"", do=b"result")]))
        self.assertEqual({key: value for key, value in answer.results.items() if key != WHOLE},
                         {0: b"one", 2: b""})

    def test_failed_records(self):
        answer = self.start().call(invocation(
            [record(b"a", do=b"result"), record("b\u00e9".encode(), do=b"fail"), record(b"", do=b"fail")]))
        self.assertIsNone(answer.failure)
        self.assertEqual(answer.failed, {1: "b\u00e9", 2: ""})
        self.assertEqual(answer.results[0], b"a")

    def test_a_failed_call_keeps_nothing_but_its_log(self):
        level = [header(b"level", INTEGER, 2)]
        for do in (b"throw", b"fail-call"):
            with self.subTest(do):
                program = self.start()
                answer = program.call(invocation(
                    [record(b"l", do=b"log", headers=level), record(b"r", do=b"result"), record(b"s", do=b"state"),
                     record(b"o", do=b"output"), record(b"reasons", do=do)]))
                self.assertIsNotNone(answer.failure)
                if do == b"fail-call":
                    self.assertEqual(answer.failure, "reasons")
                self.assertEqual((answer.results, answer.failed, answer.state, answer.outputs), ({}, {}, None, []))
                self.assertIn((2, "l"), answer.logs)
                # The next call knows nothing of it.
                self.assert_serves(program)
                self.assert_ends_well(program)

    def test_misuse_fails_the_call_and_not_the_program(self):
        program = self.start()
        answer = program.call(invocation([record(b"r", do=b"result"), record(do=b"misuse")]))
        self.assertIn("record", answer.failure)
        self.assertEqual(answer.results, {})
        self.assert_serves(program)

    def test_state(self):
        program = self.start()
        answer = program.call(invocation([record(b"new", do=b"state")], state=b"old"))
        self.assertEqual((answer.state, answer.drops_state), (b"new", False))
        answer = program.call(invocation([record(b"", do=b"state")], state=b"old"))
        self.assertEqual((answer.state, answer.drops_state), (b"", False))
        answer = program.call(invocation([record()], state=b"old"))
        self.assertEqual((answer.state, answer.drops_state), (None, False))
        answer = program.call(invocation([record(do=b"drop")], state=b"old"))
        self.assertEqual((answer.state, answer.drops_state), (None, True))

    def test_of_what_is_said_about_the_state_the_last_counts(self):
        program = self.start()
        answer = program.call(invocation([record(b"1", do=b"state"), record(b"2", do=b"state")]))
        self.assertEqual((answer.state, answer.drops_state), (b"2", False))
        answer = program.call(invocation([record(do=b"drop"), record(b"2", do=b"state")]))
        self.assertEqual((answer.state, answer.drops_state), (b"2", False))
        answer = program.call(invocation([record(b"1", do=b"state"), record(do=b"drop")]))
        self.assertEqual((answer.state, answer.drops_state), (None, True))

    def test_outputs_carry_everything(self):
        headers = [header(b"n", NONE), header(b"t", TEXT, "\u00e9".encode()), header(b"b", BYTES, b"\xff"),
                   header(b"i", INTEGER, -5), header(b"f", FLOAT, 0.5), header(b"y", BOOLEAN, 1),
                   header(b"w", TIME, 77), header(b"l", TABLE, b"F\0\0\0\0"), header(b"delay", INTEGER, 2 ** 40)]
        properties = {name: name.encode() for name in list(frames.PROPERTY_TAGS)[1:]}
        answer = self.start().call(invocation(
            [record(b"body\0", do=b"output", headers=headers, **properties), record(b"", do=b"output")]))
        self.assertIsNone(answer.failure)
        full, bare = answer.outputs
        self.assertEqual(full.properties, {"body": b"body\0", **properties})
        self.assertEqual(full.headers, [
            (b"do", TEXT, b"output"), (b"n", NONE, b""), (b"t", TEXT, "\u00e9".encode()), (b"b", BYTES, b"\xff"),
            (b"i", INTEGER, struct.pack("<q", -5)), (b"f", FLOAT, struct.pack("<d", 0.5)), (b"y", BOOLEAN, b"\1"),
            (b"w", TIME, struct.pack("<q", 77)), (b"l", TABLE, b"F\0\0\0\0"),
            (b"delay", INTEGER, struct.pack("<q", 2 ** 40))])
        self.assertEqual(full.delay_ms, 2 ** 40)
        self.assertEqual(bare.properties, {"body": b""})
        self.assertIsNone(bare.delay_ms)

    def test_names_of_an_output_have_255_bytes_at_most(self):
        program = self.start()
        for name in ("exchange", "routing_key"):
            answer = program.call(invocation([record(do=b"output", **{name: b"n" * 255})]))
            self.assertEqual(answer.outputs[0].properties[name], b"n" * 255)
            answer = program.call(invocation([record(do=b"output", **{name: b"n" * 256})]))
            self.assertIsNotNone(answer.failure)
        answer = program.call(invocation([record(do=b"output", headers=[header(b"n" * 255, NONE)])]))
        self.assertEqual(answer.outputs[0].headers[1][0], b"n" * 255)
        answer = program.call(invocation([record(do=b"output", headers=[header(b"n" * 256, NONE)])]))
        self.assertIsNotNone(answer.failure)

    def test_text_that_is_not_utf8_is_not_published(self):
        program = self.start()
        cases = [dict(routing_key=b"\xff"), dict(type=b"\xc3"), dict(headers=[header(b"\xed\xa0\x80", NONE)]),
                 dict(headers=[header(b"h", TEXT, b"\xf5\x80\x80\x80")])]
        for case in cases:
            with self.subTest(case):
                self.assertIsNotNone(program.call(invocation([record(do=b"output", **case)])).failure)
        self.assert_serves(program)

    def test_reasons_and_logs_are_made_utf8(self):
        level = [header(b"level", INTEGER, 3)]
        answer = self.start().call(invocation(
            [record(b"a\xffb", do=b"fail"), record(b"c\xc3(d", do=b"log", headers=level)]))
        self.assertEqual(answer.failed, {0: "a?b"})
        self.assertEqual(answer.logs, [(3, "c?(d")])

    def test_log_levels(self):
        answer = self.start().call(invocation(
            [record(b"%d" % level, do=b"log", headers=[header(b"level", INTEGER, level)]) for level in range(4)]))
        self.assertEqual(answer.logs, [(0, "0"), (1, "1"), (2, "2"), (3, "3")])

    def test_large_results(self):
        program = self.start()
        for sizes in ((65536 - 13,), (65536,), (1 << 20, 20 << 20, 1)):
            answer = program.call(invocation(
                [record(do=b"big", headers=[header(b"size", INTEGER, size)]) for size in sizes]))
            self.assertIsNone(answer.failure)
            for index, size in enumerate(sizes):
                self.assertEqual(answer.results[index], b"x" * size)
        self.assert_serves(program)

    def test_everything_in_one_answer_is_in_the_order_of_the_protocol(self):
        # frames.Answer refuses another order.
        level = [header(b"level", INTEGER, 0)]
        each = [record(b"l", do=b"log", headers=level), record(b"o", do=b"output"), record(b"r", do=b"result"),
                record(b"s", do=b"state"), record(b"f", do=b"fail")]
        answer = self.start().call(invocation(each * 20))
        self.assertIsNone(answer.failure)
        self.assertEqual((len(answer.logs), len(answer.outputs), len(answer.results), len(answer.failed)),
                         (20, 20, 21, 20))
        self.assertEqual(answer.state, b"s")

    def test_what_is_printed_is_out_before_the_answer(self):
        program = self.start()
        program.call(invocation([record(b"printed", do=b"print")]))
        self.assertEqual(program.stdout(), b"printed")


class InAShell(ConformanceTestCase):
    def test_stdin_is_the_record_and_stdout_the_result(self):
        run = run_locally(COMMAND, b"hello")
        self.assertEqual((run.returncode, run.stderr), (0, b""))
        lines = run.stdout.decode().splitlines()
        self.assertEqual(lines[1], "state -")
        self.assertRegex(lines[5], r"^record 1 \d{13} 1 0$")
        self.assertEqual(lines[6], "body x68656c6c6f")

    def test_state_comes_from_a_file(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "state")
            self.assertIn(b"\nstate -\n", run_locally(COMMAND, b"", {"SLUICE_STATE": path}).stdout)
            with open(path, "wb") as file:
                file.write(b"kept")
            self.assertIn(b"\nstate x6b657074\n", run_locally(COMMAND, b"", {"SLUICE_STATE": path}).stdout)

    def test_a_large_input(self):
        run = run_locally(COMMAND, b"z" * (5 << 20))
        self.assertIn(f"body {blob(b'z' * (5 << 20))}\n", run.stdout.decode())


if __name__ == "__main__":
    COMMAND[:] = sys.argv[1:]
    unittest.main(argv=sys.argv[:1], verbosity=2)
