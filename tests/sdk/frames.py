"""The function protocol after sdk/PROTOCOL.md, from the broker's side: a second implementation, so
that no mistake of the SDK's can hide in its own mirror image. It encodes invocations, also broken
ones, and decodes answers strictly.
"""

import struct

NONE, TEXT, BYTES, INTEGER, FLOAT, BOOLEAN, TIME, TABLE = range(8)
WHOLE = 0xFFFFFFFF
WINDOW_END = 1

PROPERTY_TAGS = {"body": 16, "exchange": 17, "routing_key": 18, "content_type": 19,
                 "content_encoding": 20, "message_id": 21, "correlation_id": 22, "reply_to": 23,
                 "type": 24}


def item(tag, content):
    return bytes([tag]) + len(content).to_bytes(4, "little") + content


def value_bytes(kind, value):
    if kind in (INTEGER, TIME):
        return struct.pack("<q", value)
    if kind == FLOAT:
        return struct.pack("<d", value)
    if kind == BOOLEAN:
        return bytes([value])
    return value  # as it is


def header(name, kind, value=b""):
    """A header's item. `value` as bytes is taken as it is, whatever the kind."""
    if not isinstance(value, bytes):
        value = value_bytes(kind, value)
    return item(25, bytes([kind]) + len(name).to_bytes(2, "little") + name + value)


def record(body=b"", *, id=1, published_ms=2, attempt=1, flags=0, headers=(), do=None, extra=b"",
           **properties):
    content = struct.pack("<QQII", id, published_ms, attempt, flags) + item(16, body)
    for name, tag in PROPERTY_TAGS.items():
        if name in properties:
            content += item(tag, properties.pop(name))
    assert not properties, properties
    if do is not None:
        content += header(b"do", TEXT, do)
    return content + b"".join(headers) + extra


def invocation(records, *, version=1, flags=0, deadline_ns=3, timeout_ms=4, count=None, state=None,
               state_version=None, key=None, window=None, extra=b""):
    content = struct.pack("<HHQII", version, flags, deadline_ns, timeout_ms,
                          len(records) if count is None else count)
    if state is not None:
        content += item(1, state)
    if state_version is not None:
        content += item(2, struct.pack("<Q", state_version))
    if key is not None:
        content += item(3, key)
    if window is not None:
        content += item(4, struct.pack("<QQQ", *window))
    content += extra + b"".join(item(5, each) for each in records)
    return len(content).to_bytes(4, "little") + content


def cut_items(content):
    found = []
    while content:
        if len(content) < 5:
            raise AssertionError(f"{len(content)} bytes are too few for an item")
        size = int.from_bytes(content[1:5], "little")
        if size > len(content) - 5:
            raise AssertionError(f"an item of {size} bytes where {len(content) - 5} are left")
        found.append((content[0], content[5:5 + size]))
        content = content[5 + size:]
    return found


class Answer:
    """An answer frame without its length field, decoded by the letter of the protocol."""

    def __init__(self, frame):
        version, flags = struct.unpack_from("<HH", frame)
        assert version == 1, f"version {version}"
        assert flags in (0, 1), f"flags {flags}"
        self.drops_state = flags == 1
        self.failure = self.state = None
        self.failed, self.results, self.outputs, self.logs = {}, {}, [], []
        last = 0
        for tag, content in cut_items(frame[4:]):
            assert last <= tag <= 37 and tag >= 32, f"tag {tag} after {last}"
            assert last < tag or tag in (33, 35, 36, 37), f"tag {tag} repeats"
            last = tag
            if tag == 32:
                self.failure = content.decode("utf-8")
            elif tag == 33:
                self._put(self.failed, content, content[4:].decode("utf-8"))
            elif tag == 34:
                self.state = content
            elif tag == 35:
                self._put(self.results, content, content[4:])
            elif tag == 36:
                self.outputs.append(Output(content))
            else:
                assert content[0] <= 3, f"level {content[0]}"
                self.logs.append((content[0], content[1:].decode("utf-8")))

    @staticmethod
    def _put(into, content, value):
        number = int.from_bytes(content[:4], "little")
        assert len(content) >= 4 and number not in into, number
        into[number] = value


class Output:
    """A message to publish: `headers` are (name, kind, value as bytes)."""

    def __init__(self, content):
        names = {tag: name for name, tag in PROPERTY_TAGS.items()}
        self.properties, self.headers, self.delay_ms = {}, [], None
        last = 0
        for tag, inner in cut_items(content):
            assert last < tag or tag == last == 25, f"tag {tag} after {last}"
            last = tag
            if tag == 25:
                name_end = 3 + int.from_bytes(inner[1:3], "little")
                assert name_end <= len(inner)
                self.headers.append((inner[3:name_end], inner[0], inner[name_end:]))
            elif tag == 38:
                self.delay_ms = int.from_bytes(inner, "little")
                assert len(inner) == 8
            else:
                self.properties[names[tag]] = inner
