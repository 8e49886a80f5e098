"""AWS on loopback, and everything that goes wrong between it and us.

moto's server answers S3, EMR and STS over HTTP; a proxy stands before it and does what networks and AWS do:
it resets connections, loses answers whose requests had their effect, breaks bodies off, asks to slow down,
lets tokens expire, refuses. It also says which states EMR goes through, since moto's steps run for ever.

What befalls a request depends on a seed, on the request, and on how often it came, never on the order among
others: the same run meets the same faults however its threads are scheduled.
"""

import hashlib
import http.client
import json
import socket
import struct
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from moto.server import ThreadedMotoServer

from darkhaloscope.aws.clients import Aws
from darkhaloscope.aws.cluster import load_cluster
from darkhaloscope.aws.s3 import S3Files

FAULTS = ("reset", "lost", "slowdown", "slow", "truncated", "altered", "conflict")
"""reset: before it arrives; lost: after its effect; altered: a byte of a body that bears a checksum."""


@dataclass
class Weather:
    """What the proxy does to requests; changed by tests while it runs.

    rate     probability of each fault that can befall a request, by name
    seed     of the draws
    first    words of a request -> faults that befall the first requests that hold them, in turn
    expire   tokens, and after how many requests that bear them they are no longer valid
    refuse   (words of the request, such as ``PUT`` or a key) -> (status, code, message, headers)
    answer   words of a JSON request and its body -> what is answered in moto's place
    cluster  states of DescribeCluster, one a call, the last again and again; a state is a word, or a dict to
             merge into Status
    steps    the same for DescribeStep and ListSteps, by the name of the step
    """

    rate: dict = field(default_factory=dict)
    seed: int = 0
    first: dict = field(default_factory=dict)
    expire: dict = field(default_factory=dict)
    refuse: dict = field(default_factory=dict)
    answer: dict = field(default_factory=dict)
    cluster: list = field(default_factory=list)
    steps: dict = field(default_factory=dict)

    def __post_init__(self):
        self.lock = threading.Lock()
        self.seen = Counter()  # requests by what they ask
        self.borne = Counter()  # requests by token
        self.told = Counter()  # scripted states by whose they are
        self.did = Counter()  # faults by name
        self.at_once = self.most_at_once = 0

    def count(self, *words):
        """Requests so far whose text holds all of the words."""
        with self.lock:
            return sum(n for text, n in self.seen.items() if all(word in text for word in words))

    def fault(self, asked, possible):
        for words, faults in self.first.items():
            with self.lock:
                if faults and all(word in asked for word in words.split()):
                    self.did[faults[0]] += 1
                    return faults.pop(0)
        with self.lock:
            nth = self.seen[asked]
        digest = hashlib.sha256(f"{self.seed} {asked} {nth}".encode()).digest()
        left = int.from_bytes(digest[:8], "big") / 2**64
        for name in possible:
            left -= self.rate.get(name, 0.0)
            if left < 0:
                with self.lock:
                    self.did[name] += 1
                return name
        return None

    def has_expired(self, token):
        with self.lock:
            self.borne[token] += 1
            return token in self.expire and self.borne[token] > self.expire[token]

    def state(self, whose, states):
        with self.lock:
            nth = self.told[whose]
            self.told[whose] += 1
        state = states[min(nth, len(states) - 1)]
        return {"State": state} if isinstance(state, str) else state


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 60
    cloud: "Cloud"

    def log_message(self, *_):
        """Quiet."""

    def handle(self):
        try:
            super().handle()
        except (ConnectionError, TimeoutError):
            self.close_connection = True  # the client hung up, or was hung up on

    def _one(self):
        weather = self.cloud.weather
        with weather.lock:
            weather.at_once += 1
            weather.most_at_once = max(weather.at_once, weather.most_at_once)
        try:
            self._answer(weather)
        finally:
            with weather.lock:
                weather.at_once -= 1

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _one

    def _answer(self, weather):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        target = self.headers.get("X-Amz-Target", "").rpartition(".")[2]
        action = target or (body.decode() if self.path == "/" and body[:7] == b"Action=" else "")
        asked = " ".join(filter(None, [self.command, self.path, action, self.headers.get("Range", "")]))
        with weather.lock:
            weather.seen[asked] += 1
        conditional = self.headers.get("If-None-Match") == "*"
        if weather.has_expired(self.headers.get("X-Amz-Security-Token", "")):
            self._refuse(400, "ExpiredToken", "The provided token has expired.", json_=bool(target))
            return
        for words, refusal in weather.refuse.items():
            if all(word in asked for word in words.split()):
                self._refuse(*refusal, json_=bool(target))
                return
        for words, told in weather.answer.items():
            if target and all(word in f"{asked} {body.decode()}" for word in words.split()):
                self._send_json(told)
                return
        possible = ["reset", "lost", "slow", "truncated", "slowdown"]
        possible += ["conflict"] * conditional + ["altered"] * (self.command == "GET")
        fault = weather.fault(asked, possible)
        if fault == "reset":
            self._hang_up()
        elif fault == "slowdown":
            status, code = (400, "ThrottlingException") if target else (503, "SlowDown")
            self._refuse(status, code, "Please reduce your request rate.", json_=bool(target))
        elif fault == "conflict":
            self._refuse(409, "ConditionalRequestConflict", "A conflicting operation is under way.")
        else:
            self._forward(body, target, fault, alone=conditional)

    def _forward(self, body, target, fault, *, alone):
        # moto looks and stores in two steps; S3 decides a conditional put in one.
        lock = self.cloud.one_at_a_time if alone else threading.Lock()
        with lock:
            there = http.client.HTTPConnection(*self.cloud.behind, timeout=60)
            there.request(self.command, self.path, body=body, headers=dict(self.headers.items()))
            answer = there.getresponse()
            data = answer.read()
            there.close()
        if target and answer.status == 200:
            data = self._scripted(target, data)
        if fault == "lost":
            self._hang_up()
            return
        checked = any(name.lower().startswith("x-amz-checksum-crc") for name in answer.headers)
        if fault == "altered" and checked and data:
            data = bytes([data[0] ^ 1]) + data[1:]
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in {"connection", "content-length", "transfer-encoding", "server", "date"}:
                self.send_header(name, value)
        length = answer.headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(data))
        self.send_header("Content-Length", length)
        self.end_headers()
        if fault == "truncated" and data:
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True  # politely, as if that had been all
            return
        if fault == "slow" and data:
            self.wfile.write(data[:1])
            time.sleep(0.05)
            data = data[1:]
        if self.command != "HEAD":
            self.wfile.write(data)

    def _scripted(self, target, data):
        weather, answer = self.cloud.weather, json.loads(data or b"{}")
        if target == "DescribeCluster" and weather.cluster:
            answer["Cluster"].setdefault("Status", {}).update(weather.state("cluster", weather.cluster))
        steps = {"DescribeStep": lambda: [answer["Step"]], "ListSteps": lambda: answer["Steps"]}
        for step in steps.get(target, list)():
            if step["Name"] in weather.steps:
                state = weather.state(step["Name"], weather.steps[step["Name"]])
                step.setdefault("Status", {}).update(state)
        return json.dumps(answer).encode()

    def _refuse(self, status, code, message, headers=None, *, json_=False):
        if json_:
            code = {"ExpiredToken": "ExpiredTokenException", "AccessDenied": "AccessDeniedException"}.get(
                code, code
            )
            data = json.dumps({"__type": code, "message": message}).encode()
        else:
            one = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
            query = self.path == "/" and self.command == "POST"  # STS and EC2 wrap their errors
            data = (f"<ErrorResponse>{one}</ErrorResponse>" if query else one).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/x-amz-json-1.1" if json_ else "application/xml")
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _send_json(self, told):
        data = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/x-amz-json-1.1")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _hang_up(self):
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RD)
        self.connection.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        """Connections that were cut on purpose."""


class Cloud:
    """moto behind the proxy. `weather` is what the proxy does; `aws` asks through it."""

    def __init__(self):
        self.moto = ThreadedMotoServer(port=0, verbose=False)
        self.moto.start()
        self.behind = self.moto.get_host_and_port()
        self.weather, self.one_at_a_time = Weather(), threading.Lock()
        self.server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"cloud": self}))
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def fresh(self):
        """Nothing stored, fair weather, one empty bucket: the project's own."""
        there = http.client.HTTPConnection(*self.behind)
        there.request("POST", "/moto-api/reset")
        there.getresponse().read()
        there.close()
        self.weather = Weather()
        cluster = load_cluster(environment={})
        self.aws = Aws(cluster.region, cluster.bucket, self.url, retries=4)
        place = {"LocationConstraint": cluster.region}
        self.aws.call("s3", "create_bucket", Bucket=cluster.bucket, CreateBucketConfiguration=place)
        self.weather = Weather()

    def files(self, prefix="data"):
        """The store's filesystem in the bucket."""
        return S3Files(self.aws, self.aws.bucket, prefix)

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.moto.stop()
