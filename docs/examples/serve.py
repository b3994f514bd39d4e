#!/usr/bin/env python3
"""A text classifier behind HTTP, whose adapter is swapped from the command line while clients ask.

    pip install ./python torch transformers
    python serve.py MODEL SOCKET --labels c,python,perl
    vera swap REV --socket SOCKET
    curl --data-binary @some.txt http://127.0.0.1:8000/

MODEL is the directory of a base model, for instance all-MiniLM-L6-v2. Each answer names the adapter that it was
computed with. SOCKET "-" is the one that the process was started with (systemd).
"""
import argparse
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import verastore

LONGEST = 1 << 20  # bytes of a text


class Classifier:
    def __init__(self, path, labels):
        self.labels = labels
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=len(labels)).eval()
        # From here on the weights are swapped in place: the model itself knows nothing of adapters.
        self.live = verastore.attach(self.model, base=path)

    @torch.inference_mode()
    def answer(self, text):
        tokens = self.tokenizer(text, truncation=True, max_length=256, return_tensors="pt")
        with self.live.reading():  # the weights, and what is said of them, are of one adapter
            state = self.live.status()
            scores = self.model(**tokens).logits[0].softmax(0).tolist()
        best = max(range(len(scores)), key=scores.__getitem__)
        return {"label": self.labels[best], "score": round(scores[best], 3), "epoch": state.epoch,
                "adapter": state.snapshot and state.snapshot[7:19]}


class Handler(BaseHTTPRequestHandler):
    timeout = 30  # seconds without a byte from the client

    def do_POST(self):
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > LONGEST:
            self.send_error(400, "a text of at most 1 MiB, and its Content-Length")
            return
        text = self.rfile.read(int(length)).decode("utf-8", "replace")
        body = json.dumps(self.server.classifier.answer(text)).encode() + b"\n"
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def main():
    parser = argparse.ArgumentParser(description="Classify texts; the adapter is swapped through SOCKET.")
    parser.add_argument("model")
    parser.add_argument("socket")
    parser.add_argument("--labels", required=True, help="the classifier's classes, in order: c,python,perl")
    parser.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args()

    torch.manual_seed(0)  # a bare model has no classifier: one is drawn until an adapter brings its own
    classifier = Classifier(arguments.model, arguments.labels.split(","))
    with classifier.live as live, ThreadingHTTPServer(("127.0.0.1", arguments.port), Handler) as server:
        if arguments.socket == "-":
            live.listen_inherited()
        else:
            live.listen(arguments.socket)
        server.classifier = classifier
        print(f"listening on http://127.0.0.1:{server.server_port}/", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
