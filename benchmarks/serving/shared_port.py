"""hourglass-serve that shares its port with others of its kind: what several processes would give."""

from __future__ import annotations

import sys

from service import server
from service.__main__ import main

if __name__ == "__main__":
    alone = server._options
    server._options = lambda settings: [*alone(settings)[:-1], ("grpc.so_reuseport", 1)]
    sys.exit(main())
