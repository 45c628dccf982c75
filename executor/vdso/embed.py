#!/usr/bin/env python3
"""Turns a file into a C++ array: embed.py FILE HEADER."""
import pathlib
import sys

data = pathlib.Path(sys.argv[1]).read_bytes()
rows = [", ".join(f"0x{byte:02x}" for byte in data[at:at + 16]) for at in range(0, len(data), 16)]
pathlib.Path(sys.argv[2]).write_text(
    "#pragma once\n\n#include <cstdint>\n\nnamespace sluice::vmm {\n\n"
    "inline constexpr uint8_t kVdso[] = {\n    " + ",\n    ".join(rows) + "};\n\n"
    "}  // namespace sluice::vmm\n")
