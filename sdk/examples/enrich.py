"""Turns lines of a web server's log into JSON, in Python.

Each message is a line in the common log format; the result is an object with its parts. Requests
that failed on the server's side also go to the queue `server-errors`. A line that can not be read
fails alone.

    python3 -m sluice enrich.py:handle
"""

import logging
import re

import sluice

# Compiled once, before the first message: it is in the snapshot.
LINE = re.compile(r'(?P<host>\S+) \S+ (?P<user>\S+) \[(?P<time>[^\]]+)\] '
                  r'"(?P<method>[A-Z]+) (?P<path>\S+)[^"]*" (?P<status>\d{3}) (?P<bytes>\d+|-)\s*')


def handle(record):
    found = LINE.fullmatch(record.text)
    if found is None:
        raise sluice.Failed("it is not a line of a web server's log")
    request = found.groupdict()
    request["status"] = int(request["status"])
    request["bytes"] = 0 if request["bytes"] == "-" else int(request["bytes"])
    if request["status"] >= 500:
        logging.warning("%s answered %d", request["path"], request["status"])
        record.call.publish(request, "server-errors", content_type="application/json",
                            headers={"path": request["path"], "attempt": record.attempt})
    return request
