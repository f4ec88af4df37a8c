"""Servers of others, serving the same ONNX file: PEERS by name, and the clients that two of them bring."""

from benchmarks.serving.peers.catalogue import PEERS
from benchmarks.serving.peers.clients import CLIENTS, own_client
from benchmarks.serving.peers.process import Output, Peer, Rows, Server

__all__ = ["CLIENTS", "PEERS", "Output", "Peer", "Rows", "Server", "own_client"]
