#!/usr/bin/python3
"""What tools/count-tests makes of Meson's logs.   count_tests_test.py COUNT_TESTS"""

import json
import subprocess
import sys
import tempfile
import unittest

COUNT_TESTS = sys.argv.pop(1)

GTEST = """[==========] Running 4 tests from 1 test suite.
[       OK ] A.Passes (0 ms)
half a line[       OK ] A.PassesToo/0 (12 ms)
[  SKIPPED ] A.Skips (0 ms)
"""
GTEST_FAILURE = GTEST + """[  FAILED  ] A.Fails/1, where GetParam() = 7 (3 ms)
[  FAILED  ] 1 test, listed below:
[  FAILED  ] A.Fails/1, where GetParam() = 7
"""


class CountTests(unittest.TestCase):
    def count(self, tests, *arguments):
        """The last line and the exit status."""
        with tempfile.NamedTemporaryFile("w", suffix=".json") as log:
            for result, stdout, stderr in tests:
                entry = {"name": "t", "result": result, "stdout": stdout, "stderr": stderr}
                log.write(json.dumps(entry) + "\n")
            log.flush()
            done = subprocess.run([COUNT_TESTS, *arguments, log.name], capture_output=True,
                                  text=True, timeout=30, check=False)
        return done.stdout.splitlines()[-1], done.returncode

    def test_counts_googletest_cases(self):
        self.assertEqual(self.count([("OK", GTEST, "")]), ("2 passed, 0 failed", 0))
        self.assertEqual(self.count([("FAIL", GTEST_FAILURE, "")]), ("2 passed, 1 failed", 1))

    def test_counts_unittest_cases(self):
        self.assertEqual(self.count([("OK", "", "Ran 3 tests in 0.1s\n\nOK (skipped=1)\n")]),
                         ("2 passed, 0 failed", 0))
        self.assertEqual(
            self.count([("FAIL", "", "Ran 5 tests in 1s\n\nFAILED (failures=1, errors=2)\n")]),
            ("2 passed, 3 failed", 1))

    def test_any_other_program_is_one_case(self):
        self.assertEqual(self.count([("OK", "hello", ""), ("FAIL", "", "")]),
                         ("1 passed, 1 failed", 1))

    def test_a_crash_after_the_last_case_is_a_failure(self):
        for result in ("FAIL", "ERROR", "TIMEOUT", "INTERRUPT"):
            self.assertEqual(self.count([(result, GTEST, "")]), ("2 passed, 1 failed", 1))

    def test_nothing_run_is_no_success(self):
        self.assertEqual(self.count([]), ("0 passed, 0 failed", 1))
        self.assertEqual(self.count([("SKIP", "", "")]), ("0 passed, 0 failed", 1))

    def test_cases_from_elsewhere_count(self):
        self.assertEqual(self.count([("OK", "", "")], "--case", "format=failed"),
                         ("1 passed, 1 failed", 1))
        self.assertEqual(self.count([("OK", "", "")], "--case", "format=ok"),
                         ("2 passed, 0 failed", 0))


if __name__ == "__main__":
    unittest.main()
