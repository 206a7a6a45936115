"""Which sources compiled code was made of; read by setup.py too, before the package is there."""

import zlib
from pathlib import Path


def checksum(source: Path) -> int:
    """Of a C file and the headers that it may include, 31 bits."""
    headers = source.parent.glob("*.h")
    return zlib.crc32(b"".join(path.read_bytes() for path in (source, *sorted(headers)))) & 0x7FFFFFFF
