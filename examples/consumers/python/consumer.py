#!/usr/bin/env python3
"""Keeps the state of a cluster in memory, as MeshSync stores it in NATS JetStream, and prints every change.

It needs nothing but Python's standard library, so it also shows what goes over the wire. A program that must survive a
restart of the broker should use a NATS client with ordered consumers, such as nats-py.
"""

import json
import os
import socket
import sys
from urllib.parse import urlsplit


class Nats:
    """A connection to nats-server: https://docs.nats.io/reference/reference-protocols/nats-protocol"""

    def __init__(self, url, token):
        parts = urlsplit(url)
        self.socket = socket.create_connection((parts.hostname, parts.port or 4222))
        self.reader = self.socket.makefile("rb")
        self.reader.readline()  # INFO
        options = {"verbose": False, "pedantic": False, "headers": True, "lang": "python", "version": "0"}
        if token:
            options["auth_token"] = token
        self.send(b"CONNECT %s" % json.dumps(options).encode())

    def send(self, line):
        self.socket.sendall(line + b"\r\n")

    def subscribe(self, subject, number):
        self.send(b"SUB %s %d" % (subject.encode(), number))

    def request(self, subject, payload):
        """Sends a request to JetStream and returns the answer."""
        inbox = "_INBOX.example." + subject
        self.subscribe(inbox, 1)
        body = json.dumps(payload).encode()
        self.send(b"PUB %s %s %d\r\n%s" % (subject.encode(), inbox.encode(), len(body), body))
        answer = next(json.loads(payload) for to, _, _, payload in self.messages() if to == inbox)
        self.send(b"UNSUB 1")
        if "error" in answer:
            sys.exit(f"{subject}: {answer['error']['description']}")
        return answer

    def messages(self):
        """Yields subject, reply subject, headers and payload of each message."""
        while line := self.reader.readline():
            words = line.decode().split()
            if words[0] == "PING":
                self.send(b"PONG")
            elif words[0] == "-ERR":
                sys.exit(line.decode().strip())
            elif words[0] in ("MSG", "HMSG"):
                lengths = [int(word) for word in words[-2:]] if words[0] == "HMSG" else [0, int(words[-1])]
                body = self.reader.read(lengths[1])
                self.reader.readline()
                names = words[3 : -len(lengths)] if words[0] == "HMSG" else words[3:-1]
                headers = dict(
                    header.split(": ", 1)
                    for header in body[: lengths[0]].decode().split("\r\n")
                    if ": " in header
                )
                yield words[1], (names or [""])[0], headers, body[lengths[0] :]


def main():
    nats = Nats(os.environ.get("NATS_URL", "nats://localhost:4222"), os.environ.get("NATS_TOKEN"))
    # Each cluster has a stream of its own. This program follows the first one.
    streams = nats.request("$JS.API.STREAM.NAMES", {"subject": "meshsync.state.>"})["streams"] or []
    if not streams:
        sys.exit("found no stream of a cluster")
    # A consumer that starts at the first message and acknowledges nothing. JetStream removes it when this program ends.
    config = {
        "deliver_subject": "_INBOX.example.state",
        "deliver_policy": "all",
        "ack_policy": "none",
        "filter_subject": "meshsync.state.>",
        "inactive_threshold": 30_000_000_000,
    }
    # Messages may come before the answer to this request, so they are subscribed to after it: JetStream waits for that.
    nats.request(f"$JS.API.CONSUMER.CREATE.{streams[0]}", {"stream_name": streams[0], "config": config})
    nats.subscribe("_INBOX.example.state", 2)

    # The subject names an object; the message under it is its newest state.
    objects = {}
    for subject, reply, headers, payload in nats.messages():
        event = headers.get("Meshsync-Event", "")
        if event == "DELETED":
            objects.pop(subject, None)
        else:
            objects[subject] = payload
        print(event, subject, flush=True)
        # $JS.ACK.<domain…>.<delivered>.<stream seq>.<consumer seq>.<timestamp>.<pending>
        if reply.split(".")[8:9] == ["0"]:
            print("current:", len(objects), "objects", flush=True)


main()
