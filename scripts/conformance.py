"""Runs the cases of the Autobahn WebSocket test suite against a server.

The cases are Python 2 and drive a release of Autobahn's client that is, too.
Two small layers let them run on a current Python 3:

* the loader adapts each case file while importing it. Python 2 strings are
  byte strings, so they become Latin-1 text here: one character per byte, and
  the expectations of the suite keep their meaning;
* `Peer` is the WebSocket client that the cases script. It deliberately lets
  them send invalid frames, and follows Autobahn's rules and timeouts for
  judging what the server answers and how it closes.

usage: conformance.py CASE_DIR WS_URL REPORT_DIR [CASE_ID_PREFIX...]
"""

import asyncio
import base64
import builtins
import codecs
import collections
import hashlib
import importlib.machinery
import json
import os
import pathlib
import re
import struct
import sys
import types
import urllib.parse

SECTIONS = (1, 2, 3, 4, 5, 6, 7, 10)  # 9 is performance, 12 and 13 compression
CASE_COUNT = 247  # in these sections; another number means that loading failed
PASS = {"OK", "NON-STRICT", "INFORMATIONAL"}
PASS_CLOSE = {"OK", "INFORMATIONAL"}
PARALLEL = 8  # most of a case's time is waiting

OPEN_TIMEOUT = 60
CLOSE_REPLY_TIMEOUT = 30  # for the server's half of the closing handshake
TCP_DROP_TIMEOUT = 30  # for the server to close TCP, as it must do first
CHOP_DELAY = 0.001  # long enough for the server to read each piece alone
CASE_TIMEOUT = 300  # ours: no case may hang the run
SLOW = 20  # how much longer the cases' own timers are for one that failed and is run once more, alone


# --- what the cases import from Autobahn ------------------------------------


class Protocol:
    STATE_CLOSED, STATE_CONNECTING, STATE_CLOSING, STATE_OPEN = range(4)
    CLOSE_STATUS_CODE_NORMAL = 1000
    CLOSE_STATUS_CODE_PROTOCOL_ERROR = 1002
    CLOSE_STATUS_CODE_INVALID_PAYLOAD = 1007


class Utf8Validator:
    """Incremental: reports invalid bytes as soon as they arrive."""

    def __init__(self):
        self.reset()

    def reset(self):
        self.decoder = codecs.getincrementaldecoder("utf-8")()

    def validate(self, data):
        """(valid so far, ends on a code point)"""
        try:
            self.decoder.decode(octets(data))
        except UnicodeDecodeError:
            return False, False
        return True, not self.decoder.getstate()[0]


def octets(text):
    return text if isinstance(text, bytes) else text.encode("latin-1")


# --- loading the suite -------------------------------------------------------


class CaseLoader(importlib.machinery.SourceFileLoader):
    FIXES = (
        (r"(?m)^(\s*)print\b.*$", r"\1pass"),  # only in the suite's self-tests
        (r"\(object, Case\b", "(Case"),  # no valid base order in Python 3
        (r"binascii\.b2a_hex\(", "b2a_hex("),
        (r"len\(self\.payload\) / ", "len(self.payload) // "),
    )

    def source_to_code(self, data, path, **_):
        source = data.decode("latin-1")
        for pattern, replacement in self.FIXES:
            source = re.sub(pattern, replacement, source)
        return compile(source, path, "exec", dont_inherit=True)


def load_cases(directory):
    """{(1, 1, 1): class, ...} for the wanted sections, in order."""
    sys.dont_write_bytecode = True  # it would outlive a change of the fixes
    finder = importlib.machinery.FileFinder(directory, (CaseLoader, [".py"]))
    # The case files import each other by bare names, as Python 2 allowed.
    sys.meta_path.append(types.SimpleNamespace(find_spec=lambda name, *_: finder.find_spec(name)))
    builtins.xrange = range
    builtins.b2a_hex = lambda text: octets(text).hex()
    for name, content in (
        ("autobahn", {}),
        ("autobahn.websocket", {}),
        ("autobahn.websocket.protocol", {"WebSocketProtocol": Protocol}),
        ("autobahn.websocket.utf8validator", {"Utf8Validator": Utf8Validator}),
    ):
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(content)

    base = importlib.import_module("case").Case
    # The original compares pickles, which differ for equal values that are
    # not the same object.
    base.compare = lambda self, left, right: left == right
    cases = {}
    for path in pathlib.Path(directory).glob("case[0-9]*.py"):
        if int(re.match(r"case(\d+)", path.name).group(1)) not in SECTIONS:
            continue
        for value in vars(importlib.import_module(path.stem)).values():
            for entry in value if isinstance(value, list) else [value]:
                name = re.fullmatch(r"Case(\d+(_\d+)+)", getattr(entry, "__name__", ""))
                if name and isinstance(entry, type) and issubclass(entry, base):
                    cases[tuple(map(int, name.group(1).split("_")))] = entry
    return dict(sorted(cases.items()))


# --- the client that the cases script ----------------------------------------


class Peer(asyncio.Protocol, Protocol):
    """One connection for one case. Names in camelCase are the suite's."""

    factory = types.SimpleNamespace(isServer=False)

    def __init__(self, case_class, url, slowness):
        self.url = url
        self.slowness = slowness
        self.loop = asyncio.get_running_loop()
        self.done = self.loop.create_future()
        self.state = self.STATE_CONNECTING
        self.connectionWasOpen = self.wasClean = False
        self.closedByMe = self.failedByMe = self.droppedByMe = False
        self.localCloseCode = self.localCloseReason = None
        self.remoteCloseCode = self.remoteCloseReason = None
        self.autoFragmentSize = 0
        self.txFrameStats = collections.Counter()
        self.log = []  # what happened, for the report
        self.transport = None
        self.outgoing = bytearray()
        self.queue = collections.deque()
        self.queue_runs = False
        self.incoming = bytearray()
        self.head_checked = False  # of the frame being received
        self.message_opcode = None  # of the message being received, if any
        self.message = bytearray()
        self.validator = Utf8Validator()
        self.frame_mask = self.frame_sent = None
        self.case = case_class(self)

    def note(self, *what):
        self.log.append([round(self.loop.time() - self.started, 3), *what])

    def after(self, delay, action):
        self.loop.call_later(delay, lambda: self.state != self.STATE_CLOSED and action())

    # Timers that the cases set.

    def continueLater(self, delay, action, tag=None):
        self.after(delay * self.slowness, action)

    def killAfter(self, delay):
        self.after(delay * self.slowness, lambda: self.fail(1001, "Going Away"))

    def closeAfter(self, delay):
        self.after(delay * self.slowness, self.sendClose)

    # The TCP connection.

    def connection_made(self, transport):
        self.transport = transport
        self.started = self.loop.time()
        self.key = base64.b64encode(os.urandom(16)).decode()
        target = (self.url.path or "/") + ("?" + self.url.query if self.url.query else "")
        self.write(
            f"GET {target} HTTP/1.1\r\nHost: {self.url.netloc}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {self.key}\r\n"
            "Sec-WebSocket-Version: 13\r\nUser-Agent: conformance\r\n\r\n".encode()
        )
        self.after(OPEN_TIMEOUT, lambda: self.state == self.STATE_CONNECTING and self.drop("no handshake"))
        self.after(CASE_TIMEOUT, lambda: self.drop("case timeout"))

    def data_received(self, data):
        if self.state == self.STATE_CLOSED:
            return
        self.incoming += data
        try:
            if self.state == self.STATE_CONNECTING and not self.handshake():
                return
            while self.state != self.STATE_CLOSED and self.receive_frame():
                pass
        except Exception as error:  # a bug in a case or here: show it
            self.note("exception", repr(error))
            self.drop("exception")

    def connection_lost(self, error):
        self.note("disconnected", str(error or ""))
        self.state = self.STATE_CLOSED
        try:
            self.case.onConnectionLost(self.failedByMe)
        except Exception as error:
            self.note("exception", repr(error))
            self.case.behavior = "FAILED"
            self.case.result = repr(error)
        if not self.done.done():
            self.done.set_result(None)

    def drop(self, reason, abort=True):
        if self.state == self.STATE_CLOSED:
            return
        self.note("dropped by client", reason)
        self.droppedByMe = True
        if abort:
            self.wasClean = False
            self.transport.abort()
        else:
            self.flush()
            self.transport.close()
        self.state = self.STATE_CLOSED

    def handshake(self):
        head, end, rest = bytes(self.incoming).partition(b"\r\n\r\n")
        if not end:
            return False
        status, *lines = head.decode("latin-1").split("\r\n")
        headers = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
        digest = hashlib.sha1((self.key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
        if (
            not re.match(r"HTTP/1\.1 101\b", status)
            or headers.get("upgrade", "").lower() != "websocket"
            or "upgrade" not in headers.get("connection", "").lower()
            or headers.get("sec-websocket-accept") != base64.b64encode(digest).decode()
            or "sec-websocket-extensions" in headers  # none was offered
            or "sec-websocket-protocol" in headers
        ):
            self.drop(f"bad handshake: {status} {headers}")
            return False
        self.incoming = bytearray(rest)
        self.state = self.STATE_OPEN
        self.connectionWasOpen = True
        self.case.onOpen()
        return True

    # Sending. Plain writes of one turn of the loop leave together; those with
    # `sync` or `chopsize` each leave in a turn of their own.

    def write(self, data):
        if not self.outgoing:
            self.loop.call_soon(self.flush)
        self.outgoing += data

    def flush(self):
        if self.outgoing and not self.transport.is_closing():
            self.transport.write(bytes(self.outgoing))
        self.outgoing.clear()

    def send_data(self, data, sync=False, chopsize=None):
        if not chopsize and not sync and not self.queue:
            return self.write(data)
        step = chopsize or max(len(data), 1)
        self.queue.extend(data[i : i + step] for i in range(0, len(data), step))
        if not self.queue_runs:
            self.queue_runs = True
            self.run_queue()

    def run_queue(self):
        if self.queue and self.state != self.STATE_CLOSED:
            self.write(self.queue.popleft())
            self.loop.call_later(CHOP_DELAY, self.run_queue)
        else:
            self.queue_runs = False

    def sendFrame(self, opcode, payload="", fin=True, rsv=0, payload_len=None, chopsize=None, sync=False):
        payload = octets(payload)
        if payload_len is not None:  # that many bytes of the repeated payload
            payload = (payload * (payload_len // len(payload) + 1))[:payload_len]
        self.txFrameStats[opcode] += 1
        self.note("sent frame", opcode, "fin" if fin else "more", f"rsv={rsv}", brief(payload))
        mask = os.urandom(4)
        head = self.frame_head(fin << 7 | rsv << 4 | opcode, len(payload)) + mask
        self.send_data(head + masked(payload, mask), sync, chopsize)

    @staticmethod
    def frame_head(first, length):
        if length <= 125:
            return struct.pack("!BB", first, 0x80 | length)
        if length <= 0xFFFF:
            return struct.pack("!BBH", first, 0x80 | 126, length)
        return struct.pack("!BBQ", first, 0x80 | 127, length)

    def sendMessage(self, payload, isBinary=False, fragmentSize=None, sync=False):
        if self.state != self.STATE_OPEN:
            return
        opcode, size = 2 if isBinary else 1, fragmentSize or self.autoFragmentSize
        if not size or len(payload) <= size:
            return self.sendFrame(opcode, payload, sync=sync)
        # As in the original, a payload that fills its fragments exactly ends
        # with an empty one.
        for start in range(0, len(payload) + 1, size):
            last = start + size > len(payload)
            self.sendFrame(0 if start else opcode, payload[start : start + size], fin=last, sync=sync)

    # A message whose frame is sent piece by piece. It is always a text.

    def beginMessage(self):
        pass

    def beginMessageFrame(self, length):
        if self.state == self.STATE_OPEN:
            self.frame_mask, self.frame_sent, self.frame_length = os.urandom(4), 0, length
            self.note("sent frame head", 1, "more", f"{length} bytes")
            self.send_data(self.frame_head(1, length) + self.frame_mask)

    def sendMessageFrameData(self, payload):
        if self.state == self.STATE_OPEN:
            payload = octets(payload)[: self.frame_length - self.frame_sent]
            self.note("sent frame data", brief(payload))
            self.send_data(masked(payload, self.frame_mask, self.frame_sent))
            self.frame_sent += len(payload)

    def endMessage(self):
        if self.state == self.STATE_OPEN:
            self.sendFrame(0)

    # Closing.

    def sendClose(self, code=None, reason=None):
        self.sendCloseFrame(code, None if reason is None else reason.encode())

    def sendCloseFrame(self, code=None, reasonUtf8=None, isReply=False):
        if self.state != self.STATE_OPEN:
            return
        payload = struct.pack("!H", code) if code is not None else b""
        self.sendFrame(8, payload + octets(reasonUtf8 or b""))
        self.state = self.STATE_CLOSING
        self.closedByMe = not isReply
        self.localCloseCode = code
        self.localCloseReason = octets(reasonUtf8 or b"").decode("latin-1")
        if self.closedByMe:
            self.close_timer = self.loop.call_later(CLOSE_REPLY_TIMEOUT, self.drop, "no close frame")

    def fail(self, code, reason):
        if self.state == self.STATE_CLOSED:
            return
        self.note("failed by client", code, reason)
        self.failedByMe = True
        if self.state == self.STATE_OPEN:
            self.sendCloseFrame(code, reason.encode())
        else:
            self.drop(reason, abort=False)

    # Receiving.

    def receive_frame(self):
        data = self.incoming
        if len(data) < 2:
            return False
        fin, rsv, opcode = data[0] >> 7, data[0] >> 4 & 7, data[0] & 15
        length, offset = data[1] & 127, 2
        if length >= 126:
            offset = 4 if length == 126 else 10
            if len(data) < offset:
                return False
            short, length = length, int.from_bytes(data[2:offset], "big")
            minimal = length >= (126 if short == 126 else 65536)
        else:
            minimal = True
        control = opcode >= 8
        violations = (
            (rsv, f"RSV = {rsv} without an extension"),
            (data[1] & 128, "masked frame from the server"),
            (opcode not in (0, 1, 2, 8, 9, 10), f"reserved opcode {opcode}"),
            (control and not fin, "fragmented control frame"),
            (control and length > 125, "control frame with more than 125 bytes"),
            (opcode == 8 and length == 1, "close frame with one byte"),
            (opcode == 0 and self.message_opcode is None, "nothing to continue"),
            (opcode in (1, 2) and self.message_opcode, "message inside a fragmented one"),
            (not minimal, "length not in its shortest form"),
        )
        if not self.head_checked:
            self.head_checked = True
            for broken, reason in violations:
                if broken:
                    # Go on reading: the server's reply to our close frame counts.
                    self.fail(1002, reason)
                    break
        if self.state == self.STATE_CLOSED or len(data) < offset + length:
            return False
        payload = bytes(data[offset : offset + length])
        del data[: offset + length]
        self.head_checked = False
        self.note("received frame", opcode, "fin" if fin else "more", brief(payload))
        if opcode == 8:
            self.receive_close(payload)
        elif opcode == 9:
            if self.state == self.STATE_OPEN:
                self.sendFrame(10, payload)
        elif opcode == 10:
            self.case.onPong(payload.decode("latin-1"))
        elif not control:
            self.receive_data(opcode, fin, payload)
        return True

    def receive_data(self, opcode, fin, payload):
        if opcode:
            self.message_opcode = opcode
            self.message.clear()
            self.validator.reset()
        self.message += payload
        text = self.message_opcode == 1
        if text:
            valid, complete = self.validator.validate(payload)
            if not valid or fin and not complete:
                self.fail(1007, "invalid UTF-8 in a message")
        if fin:
            self.message_opcode = None
            if not self.failedByMe:
                self.case.onMessage(self.message.decode("latin-1"), not text)

    def receive_close(self, payload):
        code = int.from_bytes(payload[:2], "big") if len(payload) >= 2 else None
        self.remoteCloseCode = code
        if code is not None and code not in (*range(1000, 1004), *range(1007, 1012), *range(3000, 5000)):
            self.fail(1002, f"invalid close code {code}")
        if not Utf8Validator().validate(payload[2:])[0]:
            self.fail(1007, "invalid UTF-8 in the close reason")
        self.remoteCloseReason = payload[2:].decode("utf-8", "replace")
        if self.state == self.STATE_CLOSING:
            self.wasClean = True
            if self.closedByMe:
                self.close_timer.cancel()
            self.after(TCP_DROP_TIMEOUT, lambda: self.drop("server did not drop TCP"))
        elif self.state == self.STATE_OPEN:
            self.wasClean = True
            self.sendCloseFrame(1000, isReply=True)
        else:
            self.wasClean = False


def masked(data, mask, start=0):
    mask = mask[start % 4 :] + mask[: start % 4]
    key = (mask * (len(data) // 4 + 1))[: len(data)]
    number = int.from_bytes(data, "big") ^ int.from_bytes(key, "big")
    return number.to_bytes(len(data), "big")


# --- running and reporting ----------------------------------------------------


def brief(payload):
    """A payload in a report: its text, or hex if it is none, cut to 60."""
    payload = octets(payload)
    try:
        text = repr(payload[:60].decode("utf-8"))
    except UnicodeDecodeError:
        text = "0x" + payload[:60].hex()
    return text if len(payload) <= 60 else f"{text}... ({len(payload)} bytes)"


def events(items):
    """("message", payload, binary), ("pong", payload), ("timeout", tag)"""
    texts = []
    for kind, value, *binary in items:
        kind = "binary" if binary and binary[0] else kind
        texts.append(f"{kind} {value if kind == 'timeout' else brief(value)}")
    return ", ".join(texts) or "nothing"


async def run_case(number, case_class, url, slowness=1):
    loop = asyncio.get_running_loop()
    peer = Peer(case_class, url, slowness)
    await loop.create_connection(lambda: peer, url.hostname, url.port or 80)
    await peer.done
    case, close = peer.case, peer.case.expectedClose
    return {
        "id": ".".join(map(str, number)),
        "behavior": case.behavior,
        "behaviorClose": case.behaviorClose,
        "description": case.DESCRIPTION,
        "expectation": case.EXPECTATION,
        "expected": {name: events(items) for name, items in case.expected.items()},
        "received": events(case.received),
        "result": case.result,
        "resultClose": case.resultClose,
        "expectedClose": {
            "by": "client" if close.get("closedByMe") else "server",
            "codes": close.get("closeCode"),
            "clean": close.get("requireClean"),
        },
        "receivedClose": {
            "by": "client" if peer.closedByMe else "server",
            "code": peer.remoteCloseCode,
            "reason": peer.remoteCloseReason,
            "clean": peer.wasClean,
            "droppedByClient": peer.droppedByMe,
        },
        "seconds": round(loop.time() - peer.started, 3),
        "log": peer.log,
    }


async def run_all(cases, url):
    slots = asyncio.Semaphore(PARALLEL)

    async def one(number, case_class):
        async with slots:
            return await run_case(number, case_class, url)

    results = await asyncio.gather(*(one(*item) for item in cases.items()))
    # the answer may only have come too late for the case's own timer
    for index, (number, case_class) in enumerate(cases.items()):
        if not passed(results[index]):
            results[index] = await run_case(number, case_class, url, SLOW)
    return results


def passed(result):
    return result["behavior"] in PASS and result["behaviorClose"] in PASS_CLOSE


def stop(message):
    print("conformance:", message, file=sys.stderr)
    sys.exit(2)


def main(case_dir, url, report_dir, *prefixes):
    cases = load_cases(case_dir)
    if len(cases) != CASE_COUNT:
        stop(f"{len(cases)} cases loaded instead of {CASE_COUNT}")
    if prefixes:
        wanted = [tuple(map(int, prefix.split("."))) for prefix in prefixes]
        cases = {n: c for n, c in cases.items() if any(n[: len(w)] == w for w in wanted)}
    address = urllib.parse.urlsplit(url)
    if not cases:
        stop("no such cases")
    if address.scheme != "ws" or not address.hostname:
        stop(f"not a ws:// URL: {url}")
    try:
        results = asyncio.run(run_all(cases, address))
    except OSError as error:
        stop(f"the connection to {url} failed: {error}")

    reports = pathlib.Path(report_dir)
    reports.mkdir(parents=True, exist_ok=True)
    for old in reports.glob("*.json"):
        old.unlink()
    index = {}
    for result in results:
        (reports / f"{result['id']}.json").write_text(json.dumps(result, indent=2))
        index[result["id"]] = {key: result[key] for key in ("behavior", "behaviorClose", "seconds")}
    (reports / "index.json").write_text(json.dumps(index, indent=2))

    print(f"{len(results)} cases at {url}")
    for section in SECTIONS:
        mine = [r for r in results if r["id"].split(".")[0] == str(section)]
        if mine:
            counts = collections.Counter(r["behavior"] for r in mine if passed(r))
            counts["failed"] = sum(not passed(r) for r in mine)
            line = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()) if count)
            print(f"  section {section:>2}: {len(mine):>3} cases: {line}")
    non_strict = [r["id"] for r in results if r["behavior"] == "NON-STRICT"]
    print("non-strict:", ", ".join(non_strict) or "none")
    print("reports:", reports)

    failed = [result for result in results if not passed(result)]
    for result in failed:
        want, got = result["expectedClose"], result["receivedClose"]
        print(f"\nFAILED {result['id']}: behavior {result['behavior']}, close {result['behaviorClose']}")
        for name, text in result["expected"].items():
            print(f"  expected ({name}): {text}")
        print(f"  received: {result['received']}")
        print(f"  close expected: by {want['by']}, code in {want['codes']}, clean: {want['clean']}")
        print(f"  close received: by {got['by']}, code {got['code']}, clean: {got['clean']}")
        for text in dict.fromkeys((result["result"], result["resultClose"])):
            print(f"  {text}")
    print(f"\n{len(failed)} of {len(results)} cases failed" if failed else "all passed")
    return 1 if failed else 0


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
