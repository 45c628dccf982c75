"""The Sluice SDK for Python: functions that Sluice calls for the messages of a queue.

    def handle(record):
        order = record.json()
        return {"order": order["id"], "total": sum(order["prices"])}

    python3 -m sluice app.py:handle

A handler of records gets one at a time; what it raises fails that record alone, and takes back what
it had put into the answer. A handler of batches (`python3 -m sluice --batch app.py:handle_batch`, or
the decorator) gets the whole Call, and what it raises fails all of it. Either returns bytes, str,
anything that json can write, or None for no result. Instead of naming the handler on the command
line, decorate it with `sluice.handler` or `sluice.batch_handler`, or call `sluice.run(handle)`.

Everything up to the first read, imports above all, happens once for an image: it is in the snapshot
that each call starts from. Outside Sluice (no SLUICE_FD) stdin is the one record of one call.

One file, the standard library only, Python 3.9 or later. One thread: the one that runs the handler.
"""

import collections
import gc
import io
import json
import logging
import os
import struct
import sys
import time
import traceback

__all__ = [
    "Call", "Failed", "LogHandler", "Other", "ProtocolError", "Record", "Table", "Time", "Window",
    "DEBUG", "INFO", "WARNING", "ERROR", "batch_handler", "handler", "main", "on_call", "rehearse", "run",
]

DEBUG, INFO, WARNING, ERROR = range(4)

_BUFFER_BYTES = 64 * 1024
_INVOCATION_BYTES_MAX = 64 * 1024 * 1024
_NAME_BYTES_MAX = 255
_ITEMS_MAX = 65536
_LOG_LINES_MAX = 16384
_LOG_BYTES_MAX = 1024 * 1024
_WHOLE = 0xFFFFFFFF
# Objects that may be made before the collector looks for cycles: rare, because it writes to each
# object that it visits, but not never, because a reused process has many calls.
_GC_THRESHOLD = 20_000

# The interpreter specialises code that has run about so often; beyond it nothing changes.
_WARM_UPS = 64

_INVOCATION = struct.Struct("<IHHQII")
_ANSWER = struct.Struct("<IHH")
_ITEM = struct.Struct("<BI")
_NUMBERED = struct.Struct("<BII")
_RECORD = struct.Struct("<QQII")
_HEADER = struct.Struct("<BH")
_WINDOW = struct.Struct("<QQQ")
_U64 = struct.Struct("<Q")
_I64 = struct.Struct("<q")
_F64 = struct.Struct("<d")

_PROPERTIES = {17: "exchange", 18: "routing_key", 19: "content_type", 20: "content_encoding",
               21: "message_id", 22: "correlation_id", 23: "reply_to", 24: "type"}

Window = collections.namedtuple("Window", "start_ms end_ms number")
Window.__doc__ = "The window of a call; the times are 0 where it goes by count."


class ProtocolError(Exception):
    """What came is not an invocation. Ends the program."""


class Failed(Exception):
    """Raised by a handler: the record (or call) failed for this reason, which needs no traceback."""


class Time(int):
    """A header's time, in seconds since the epoch."""


class Table(bytes):
    """A header's table or list, as AMQP 0-9-1 encodes it."""


class Other(bytes):
    """A header's value of a kind that this version does not know."""


def _text(view):
    return str(view, "utf-8", "surrogateescape")


def _items(frame, at, end):
    """The items of frame[at:end] as (tag, start, end)."""
    while at < end:
        if end - at < 5:
            raise ProtocolError("its items do not fit it")
        tag, size = _ITEM.unpack_from(frame, at)
        at += 5
        if size > end - at:
            raise ProtocolError("its items do not fit it")
        yield tag, at, at + size
        at += size


def _value(kind, view):
    if kind == 1:
        return _text(view)
    if kind == 2:
        return bytes(view)
    if kind == 3:
        return _I64.unpack_from(view)[0]
    if kind == 4:
        return _F64.unpack_from(view)[0]
    if kind == 5:
        return view[0] != 0
    if kind == 6:
        return Time(_I64.unpack_from(view)[0])
    if kind == 7:
        return Table(view)
    if kind == 0:
        return None
    return Other(view)


class Record:
    """A message. Properties that it does not have are None. Only while its call is worked on."""

    __slots__ = ("call", "index", "id", "published_ms", "attempt", "redelivered", "exchange",
                 "routing_key", "content_type", "content_encoding", "message_id", "correlation_id",
                 "reply_to", "type", "_frame", "_body_at", "_headers_at", "_body", "_headers")

    def __init__(self, call, index, frame, at, end):
        if end - at < 24:
            raise ProtocolError("a record is too short")
        self.call = call
        self.index = index
        self.id, self.published_ms, self.attempt, flags = _RECORD.unpack_from(frame, at)
        self.redelivered = flags & 1 != 0
        self.exchange = self.routing_key = self.content_type = self.content_encoding = None
        self.message_id = self.correlation_id = self.reply_to = self.type = None
        self._frame = frame
        self._body_at = (at, at)
        self._headers_at = []
        self._body = self._headers = None
        for tag, start, stop in _items(frame, at + 24, end):
            if tag == 16:
                self._body_at = (start, stop)
            elif tag == 25:
                self._headers_at.append((start, stop))
            elif tag in _PROPERTIES:
                setattr(self, _PROPERTIES[tag], _text(frame[start:stop]))

    @property
    def body(self):
        if self._body is None:
            start, stop = self._body_at
            self._body = bytes(self._frame[start:stop])
        return self._body

    @property
    def text(self):
        return self.body.decode("utf-8")

    def json(self):
        return json.loads(self.body)

    def header_items(self):
        """All headers as (name, value), in their order and with names that occur twice."""
        found = []
        for start, stop in self._headers_at:
            if stop - start < 3:
                raise ProtocolError("a header does not fit")
            kind, name_size = _HEADER.unpack_from(self._frame, start)
            value_at = start + 3 + name_size
            if value_at > stop:
                raise ProtocolError("a header does not fit")
            try:
                value = _value(kind, self._frame[value_at:stop])
            except (struct.error, IndexError):
                raise ProtocolError("a header does not fit") from None
            found.append((_text(self._frame[start + 3:value_at]), value))
        return found

    @property
    def headers(self):
        """name -> str, bytes, int, float, bool, None, Time, Table or Other; the first of a name."""
        if self._headers is None:
            self._headers = {}
            for name, value in self.header_items():
                self._headers.setdefault(name, value)
        return self._headers

    def fail(self, why):
        """This record failed, and why; the handler may go on with others."""
        self.call.fail_record(self.index, why)


def _encoded(value):
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, str):
        return value.encode("utf-8")
    return json.dumps(value).encode("utf-8")


def _item(tag, content):
    return _ITEM.pack(tag, len(content)) + content


def _name(what, text):
    name = text.encode("utf-8")
    if len(name) > _NAME_BYTES_MAX:
        raise ValueError(f"{what} is longer than {_NAME_BYTES_MAX} bytes")
    return name


def _header(name, value):
    if isinstance(value, Other):
        raise TypeError(f"the header {name!r} has a kind that this version does not know")
    if value is None:
        kind, content = 0, b""
    elif isinstance(value, str):
        kind, content = 1, value.encode("utf-8")
    elif isinstance(value, Table):
        kind, content = 7, value
    elif isinstance(value, (bytes, bytearray, memoryview)):
        kind, content = 2, bytes(value)
    elif isinstance(value, bool):
        kind, content = 5, bytes((value,))
    elif isinstance(value, Time):
        kind, content = 6, _I64.pack(value)
    elif isinstance(value, int):
        kind, content = 3, _I64.pack(value)
    elif isinstance(value, float):
        kind, content = 4, _F64.pack(value)
    else:
        raise TypeError(f"the header {name!r} can not be a {type(value).__name__}")
    encoded = _name("a header's name", name)
    return _item(25, _HEADER.pack(kind, len(encoded)) + encoded + content)


class Call:
    """One call: what came, and the answer to it."""

    def __init__(self, frame):
        if len(frame) < 24:
            raise ProtocolError("it is too short")
        _, version, flags, self.deadline_ns, self.timeout_ms, count = _INVOCATION.unpack_from(frame)
        if version != 1:
            raise ProtocolError(f"its version is {version}, which is not known here")
        self.window_end = flags & 1 != 0
        self.key = self.window = None
        self.state_version = 0
        self._frame = frame
        self._records = None
        self._records_at = []
        self._state = None
        self._read_items(frame)
        if len(self._records_at) != count:
            raise ProtocolError("it has not as many records as it says")
        if count == 0 and not self.window_end:
            raise ProtocolError("it has no records")
        self._failure = None
        self._failed = {}
        self._results = {}
        self._outputs = []
        self._logs = []
        self._log_bytes = 0
        self._logs_dropped = 0
        self._state_changed = False

    def _read_items(self, frame):
        try:
            for tag, start, end in _items(frame, 24, len(frame)):
                if tag == 5:
                    self._records_at.append((start, end))
                elif tag == 1:
                    self._state = bytes(frame[start:end])
                elif tag == 2:
                    self.state_version = _U64.unpack_from(frame[start:end])[0]
                elif tag == 3:
                    self.key = _text(frame[start:end])
                elif tag == 4:
                    self.window = Window(*_WINDOW.unpack_from(frame[start:end]))
        except struct.error:
            raise ProtocolError("a fixed item is too short") from None

    @property
    def records(self):
        if self._records is None:
            self._records = [Record(self, index, self._frame, start, end)
                             for index, (start, end) in enumerate(self._records_at)]
        return self._records

    def __len__(self):
        return len(self._records_at)

    def __iter__(self):
        return iter(self.records)

    def remaining_ms(self):
        """How long the call may still take; 0 when its deadline has passed."""
        return max(0, (self.deadline_ns - time.time_ns()) // 1_000_000)

    # The answer.

    @property
    def state(self):
        """The state as bytes: what was set last, or else what came; None where there is none.

        Set it to bytes, str or anything that json can write; `del call.state` drops it.
        """
        return self._state

    @state.setter
    def state(self, value):
        self._state = _encoded(value)
        self._state_changed = True

    @state.deleter
    def state(self):
        self._state = None
        self._state_changed = True

    def state_json(self, default=None):
        return default if self._state is None else json.loads(self._state)

    def result(self, value, record=None):
        """The result of the record of that index, or of the call. Each may have one."""
        index = self._index(record, _WHOLE)
        if index in self._results:
            raise ValueError("a second result was given where there is one already")
        self._results[index] = _encoded(value)

    def fail(self, why):
        """The call failed, and why; the first reason counts."""
        if self._failure is None:
            self._failure = str(why).encode("utf-8", "replace")

    def fail_record(self, record, why):
        """The record of that index failed, and why; the first reason counts."""
        self._failed.setdefault(self._index(record), str(why).encode("utf-8", "replace"))

    def publish(self, body, routing_key="", exchange="", *, headers=None, content_type=None,
                content_encoding=None, message_id=None, correlation_id=None, reply_to=None, type=None,
                delay_ms=0):
        """A message to publish with the answer. `headers` is a dict, or pairs of name and value."""
        parts = [_item(16, _encoded(body))]
        if exchange:
            parts.append(_item(17, _name("the exchange", exchange)))
        if routing_key:
            parts.append(_item(18, _name("the routing key", routing_key)))
        for tag, text in ((19, content_type), (20, content_encoding), (21, message_id),
                          (22, correlation_id), (23, reply_to), (24, type)):
            if text:
                parts.append(_item(tag, text.encode("utf-8")))
        if headers:
            pairs = headers.items() if isinstance(headers, dict) else headers
            parts.extend(_header(name, value) for name, value in pairs)
        if delay_ms:
            parts.append(_item(38, _U64.pack(delay_ms)))
        self._outputs.append(b"".join(parts))

    def log(self, line, level=INFO):
        """A line of the function's log; costs no system call. logging's levels come by LogHandler."""
        text = str(line).encode("utf-8", "replace")
        if len(self._logs) >= _LOG_LINES_MAX or self._log_bytes + len(text) > _LOG_BYTES_MAX:
            self._logs_dropped += 1
            return
        self._log_bytes += len(text)
        self._logs.append(bytes((min(max(level, DEBUG), ERROR),)) + text)

    def _index(self, record, default=None):
        if record is None and default is not None:
            return default
        if not 0 <= record < len(self._records_at):
            raise IndexError(f"the call has no record {record}")
        return record

    def _mark(self):
        return (self._state, self._state_changed, len(self._outputs), len(self._results),
                len(self._failed))

    def _undo(self, mark):
        self._state, self._state_changed, outputs, results, failed = mark
        del self._outputs[outputs:]
        while len(self._results) > results:
            self._results.popitem()
        while len(self._failed) > failed:
            self._failed.popitem()

    def _answer(self):
        """The answer frame. The call and its records are of no use afterwards."""
        if self._logs_dropped:
            line = f"{self._logs_dropped} more log lines were dropped"
            self._logs.append(bytes((WARNING,)) + line.encode())
        items = len(self._failed) + len(self._results) + len(self._outputs) + len(self._logs)
        if items > _ITEMS_MAX:
            self.fail("the answer has too many items")
        flags = 0
        parts = [b""]
        if self._failure is not None:
            parts.append(_item(32, self._failure))
        else:
            for record, why in self._failed.items():
                parts += (_NUMBERED.pack(33, 4 + len(why), record), why)
            if self._state_changed and self._state is not None:
                parts += (_ITEM.pack(34, len(self._state)), self._state)
            flags = int(self._state_changed and self._state is None)
            for record, result in self._results.items():
                parts += (_NUMBERED.pack(35, 4 + len(result), record), result)
            for output in self._outputs:
                parts += (_ITEM.pack(36, len(output)), output)
        for line in self._logs:
            parts += (_ITEM.pack(37, len(line)), line)
        parts[0] = _ANSWER.pack(sum(map(len, parts)) + 4, 1, flags)
        return b"".join(parts)


class LogHandler(logging.Handler):
    """Sends what the program logs to the function's log, with its level; before a call to stderr."""

    def emit(self, record):
        try:
            line = self.format(record)
            if _current is None:
                print(line, file=sys.stderr)
            else:
                _current.log(line, min(ERROR, max(DEBUG, record.levelno // 10 - 1)))
        except Exception:  # pylint: disable=broad-except
            self.handleError(record)


def _descriptor(text):
    if not (text.isascii() and text.isdecimal() and len(text) < 8):
        raise ValueError(f"SLUICE_FD is not the number of a descriptor: {text!r}")
    return int(text)


class _Stream:
    """The descriptor: one read and one write for a call that fits the buffer.

    The buffer is made once and read into, so a short frame touches one page of it.
    """

    def __init__(self, descriptor):
        self._file = io.FileIO(descriptor, "r", closefd=False)
        self._descriptor = descriptor
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))
        self._used = 0
        self._frame_bytes = 0

    def _read_until(self, wanted):
        while self._used < wanted:
            got = self._file.readinto(self._buffer[self._used:])
            if not got:
                if self._used == 0:
                    return False
                raise ProtocolError("the stream ends within it")
            self._used += got
        return True

    def read(self):
        """The next frame, or None at the end. Valid until the next call of this."""
        rest = self._used - self._frame_bytes
        if rest:
            self._buffer[:rest] = bytes(self._buffer[self._frame_bytes:self._used])
        self._used, self._frame_bytes = rest, 0
        if not self._read_until(4):
            return None
        wanted = 4 + int.from_bytes(self._buffer[:4], "little")
        if wanted > 4 + _INVOCATION_BYTES_MAX:
            raise ProtocolError("it is longer than 64 MiB")
        if wanted > len(self._buffer):
            larger = memoryview(bytearray(wanted))
            larger[:self._used] = self._buffer[:self._used]
            self._buffer = larger
        self._read_until(wanted)
        self._frame_bytes = wanted
        return self._buffer[:wanted]

    def write(self, frame):
        put = os.write(self._descriptor, frame)
        while put < len(frame):
            put += os.write(self._descriptor, memoryview(frame)[put:])


class _Local:
    """Outside Sluice: stdin is the one record of one call, and its answer is shown to a person."""

    failed = False

    def __init__(self):
        self._done = False
        self._state_path = os.environ.get("SLUICE_STATE")

    def read(self):
        if self._done:
            return None
        self._done = True
        state = b""
        if self._state_path and os.path.exists(self._state_path):
            with open(self._state_path, "rb") as file:
                state = _item(1, file.read())
        record = _RECORD.pack(1, int(time.time() * 1000), 1, 0) + _item(16, sys.stdin.buffer.read())
        rest = state + _item(5, record)
        no_deadline = 2 ** 64 - 1
        return memoryview(_INVOCATION.pack(20 + len(rest), 1, 0, no_deadline, 0xFFFFFFFF, 1) + rest)

    def write(self, frame):
        self.failed = False
        state = None
        for tag, start, end in _items(frame, 8, len(frame)):
            content = frame[start:end]
            if tag in (32, 33):
                self.failed = True
                self._show(b"failed", content[4:] if tag == 33 else content)
            elif tag == 34:
                state = content
            elif tag == 35:
                sys.stdout.buffer.write(content[4:])
            elif tag == 36:
                items = {inner: content[a:b] for inner, a, b in _items(content, 0, len(content))}
                self._show(b"output " + items.get(17, b"") + b"/" + items.get(18, b""), items[16])
            elif tag == 37:
                self._show((b"debug", b"info", b"warning", b"error")[content[0]], content[1:])
        sys.stdout.flush()
        if not self.failed:
            self._keep(state, _ANSWER.unpack_from(frame)[2] & 1)

    def _keep(self, state, drop):
        if state is not None and self._state_path:
            with open(self._state_path, "wb") as file:
                file.write(state)
        elif state is not None:
            self._show(b"state", state)
        elif drop and not self._state_path:
            print("state dropped", file=sys.stderr)
        elif drop and os.path.exists(self._state_path):
            os.unlink(self._state_path)

    @staticmethod
    def _show(what, content):
        sys.stderr.buffer.write(what + b": " + content + b"\n")
        sys.stderr.flush()


_current = None
_registered = None
_hooks = []


def handler(function):
    """Decorates the handler of records that `python3 -m sluice app.py` runs."""
    global _registered
    _registered = (function, False)
    return function


def batch_handler(function):
    """Decorates the handler of batches that `python3 -m sluice app.py` runs."""
    global _registered
    _registered = (function, True)
    return function


def on_call(hook):
    """Has `hook(seed)` called at the start of each call, with 32 bytes that no other call has seen.

    A generator that is seeded before the first call is the same in every call. `random` is seeded
    anew without this, where it has been imported before the first call.
    """
    _hooks.append(hook)
    return hook


def _reason(error):
    if isinstance(error, Failed):
        return str(error)
    # Without the frame of this module, which is the same for all.
    below = error.__traceback__ and error.__traceback__.tb_next
    _current.log("".join(traceback.format_exception(type(error), error, below)).rstrip(), ERROR)
    return f"{type(error).__name__}: {error}"


def _serve_batch(handle, call):
    try:
        result = handle(call)
        if result is not None:
            call.result(result)
    except ProtocolError:
        raise
    except Exception as error:  # pylint: disable=broad-except
        call.fail(_reason(error))


def _serve_records(handle, call):
    for record in call.records:
        mark = call._mark()
        try:
            result = handle(record)
            if result is not None:
                call.result(result, record.index)
        except ProtocolError:
            raise
        except Exception as error:  # pylint: disable=broad-except
            call._undo(mark)
            record.fail(_reason(error))


def _reseed(reseeds_random):
    seed = os.urandom(32)
    if reseeds_random:
        sys.modules["random"].seed(int.from_bytes(seed, "little"))
    for hook in _hooks:
        hook(seed)


def _rehearsed(handle, record):
    frame = _item(1, b"{}") + _item(3, b"k") + _item(5, record)
    call = Call(memoryview(_INVOCATION.pack(20 + len(frame), 1, 0, 2 ** 64 - 1, 0, 1) + frame))
    handle(call)
    call._answer()
    call._records = None


def rehearse(handle, body, times=_WARM_UPS):
    """Runs a handler of records on a made-up message before the first call; its answers are dropped.

    The interpreter rewrites code that has run a few times, and fills caches. After a rehearsal that
    is in the snapshot; else each call does it again, and dirties the pages where it lies.
    """
    record = _RECORD.pack(0, 0, 1, 0) + _item(16, _encoded(body)) + _item(18, b"k")
    for _ in range(times):
        _rehearsed(lambda call: call.result(handle(call.records[0]), 0), record)


def _rehearse_this_module():
    def use(call):
        _serve_records(lambda record: (record.json(), record.headers), call)
        call.log("")
        call.publish({}, "k", headers={"n": "v"})
        call.state = call.state_json()

    record = _RECORD.pack(0, 0, 1, 0) + _item(16, b"{}") + _item(18, b"k") + _header("n", 1)
    for _ in range(_WARM_UPS):
        _rehearsed(use, record)


def _loop(stream, serve, handle):
    global _current
    reseeds_random = "random" in sys.modules
    _rehearse_this_module()
    # What is there by now stays: the collector need not visit it, which would write to its pages.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD, 10, 10)
    while True:
        frame = stream.read()
        if frame is None:
            return
        _current = call = Call(frame)
        if reseeds_random or _hooks:
            _reseed(reseeds_random)
        serve(handle, call)
        # In a sandbox nothing runs after the answer: what was printed must be out before.
        for printed in (sys.stdout, sys.stderr):
            if printed is not None:
                printed.flush()
        stream.write(call._answer())
        _current = None
        # Not left to the collector: a call and its records keep each other, and large bodies.
        call._records = None
        frame.release()


def run(handle=None, *, batch=None):
    """Serves calls until their stream ends, with a handler of records or one of batches.

    Returns what sys.exit should get: 0, or 1 after saying on stderr what was wrong.
    """
    if (handle is None) == (batch is None):
        raise TypeError("run() takes a handler of records or one of batches")
    descriptor = os.environ.get("SLUICE_FD")
    if not logging.root.handlers:
        logging.root.addHandler(LogHandler())
        logging.logProcesses = False  # a getpid for each line
    try:
        stream = _Local() if descriptor is None else _Stream(_descriptor(descriptor))
        if batch is not None:
            _loop(stream, _serve_batch, batch)
        else:
            _loop(stream, _serve_records, handle)
    except (ProtocolError, MemoryError, OSError, ValueError) as error:
        why = str(error) or "there is no memory for it"
        print(f"sluice: the invocation can not be served: {why}", file=sys.stderr)
        return 1
    return int(getattr(stream, "failed", False))


def _load(target):
    """The module of `app.py` or `package.module`."""
    import importlib.util
    if not target.endswith(".py"):
        return importlib.import_module(target)
    sys.path.insert(0, os.path.dirname(os.path.abspath(target)))
    name = os.path.splitext(os.path.basename(target))[0]
    spec = importlib.util.spec_from_file_location(name, target)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def main(arguments=None):
    """python3 -m sluice [--batch] FILE.py|MODULE[:HANDLER]"""
    arguments = sys.argv[1:] if arguments is None else arguments
    is_batch = arguments[:1] == ["--batch"]
    targets = arguments[is_batch:]
    if len(targets) != 1 or targets[0].startswith("-"):
        print(f"usage: {main.__doc__}", file=sys.stderr)
        return 2
    target, _, name = targets[0].partition(":")
    module = _load(target)
    if name or _registered is None:
        function = getattr(module, name or "handle", None)
        if not callable(function):
            print(f"sluice: {target} has no handler {name or 'handle'!r}", file=sys.stderr)
            return 2
        is_batch = is_batch or _registered == (function, True)
    else:
        function, is_batch = _registered
    return run(batch=function) if is_batch else run(function)


if __name__ == "__main__":
    # A handler's `import sluice` must find this module, not a second copy of it.
    sys.modules.setdefault("sluice", sys.modules["__main__"])
    sys.exit(main())
