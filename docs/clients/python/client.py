"""Embeds and scores two rows: python client.py MODEL [HOST:PORT]"""

import sys

import numpy as np

from hourglass import Client, HourglassError

model, server = (*sys.argv[1:], "127.0.0.1:8001")[:2]
try:
    # TLS: ca_file="ca.pem". A token: token_file="token". Large batches go in several messages, within the limits.
    with Client(server, timeout=30) as client:  # seconds, for each message
        shape = client.model(model).row_shape
        rows = np.stack([np.zeros(shape), np.ones(shape)])  # a row of zeros, and a row of ones
        embeddings, scores = client.embed(model, rows), client.score(model, rows)
except HourglassError as error:
    sys.exit(f"{error.reason} {error.field or ''}: {error}")

print("embedding_space_id", embeddings.model.embedding_space_id)
print("embedding", *embeddings.values.shape)
for embedding, score, anomaly in zip(embeddings.values, scores.score, scores.is_anomaly, strict=True):
    print(*(f"{number:.4f}" for number in embedding[:3]), f"score {score:.4f}", "anomaly" if anomaly else "normal")
