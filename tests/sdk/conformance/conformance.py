"""The conformance program in Python; describe.md tells what it does."""

import struct
import zlib

import sluice

PROPERTIES = ("content_type", "content_encoding", "message_id", "correlation_id", "reply_to", "type")


def blob(value):
    if value is None:
        return "-"
    if isinstance(value, str):
        value = value.encode("utf-8", "surrogateescape")
    if len(value) > 64:
        return f"{len(value)}#{zlib.crc32(value):08x}"
    return "x" + value.hex()


def describe_value(value):
    if value is None:
        return "none"
    if isinstance(value, sluice.Other):
        return "other " + blob(value)
    if isinstance(value, sluice.Table):
        return "table " + blob(value)
    if isinstance(value, str):
        return "text " + blob(value)
    if isinstance(value, bytes):
        return "bytes " + blob(value)
    if isinstance(value, bool):
        return f"boolean {value:d}"
    if isinstance(value, sluice.Time):
        return f"time {value:d}"
    if isinstance(value, int):
        return f"integer {value}"
    return f"float {struct.unpack('<Q', struct.pack('<d', value))[0]:016x}"


def describe(call):
    yield f"call {call.window_end:d} {call.deadline_ns} {call.timeout_ms} {len(call)}"
    yield "state " + blob(call.received_state)
    yield f"state_version {call.state_version}"
    yield "key " + blob(call.key)
    yield "window " + (" ".join(map(str, call.window)) if call.window else "-")
    for record in call:
        yield f"record {record.id} {record.published_ms} {record.attempt} {record.redelivered:d}"
        yield "body " + blob(record.body)
        yield "exchange " + blob(record.exchange or "")
        yield "routing_key " + blob(record.routing_key or "")
        for name in PROPERTIES:
            yield f"{name} {blob(getattr(record, name))}"
        for name, value in record.header_items():
            yield f"header {blob(name)} {describe_value(value)}"


def act(call, record, what):
    if what == "throw":
        raise ValueError(record.text)
    if what == "fail":
        record.fail(record.body.decode("utf-8", "surrogateescape"))
    elif what == "fail-call":
        call.fail(record.body.decode("utf-8", "surrogateescape"))
    elif what == "result":
        call.result(record.body, record.index)
    elif what == "state":
        call.state = record.body
    elif what == "drop":
        del call.state
    elif what == "output":
        call.publish(record.body, record.routing_key, record.exchange, headers=record.header_items(),
                     delay_ms=record.headers.get("delay", 0),
                     **{name: getattr(record, name) for name in PROPERTIES})
    elif what == "log":
        call.log(record.body.decode("utf-8", "surrogateescape"), record.headers["level"])
    elif what == "big":
        call.result(b"x" * record.headers["size"], record.index)
    elif what == "misuse":
        call.result("x", len(call))
    elif what == "print":
        print(record.text, end="")


@sluice.batch_handler
def handle(call):
    call.received_state = call.state
    for record in call:
        what = record.headers.get("do")
        if isinstance(what, str):
            act(call, record, what)
    return "".join(line + "\n" for line in describe(call))
