"""The process inside which untrusted programs run; standard library only, started by `data.sandbox`.

It reads requests from standard input and forks a child for each, which takes its limits, gives up its user and
becomes the program. Expected outputs never come here, so nothing in this process is worth stealing. When the
parent dies, standard input ends, and this process ends with it.

Request: `REQUEST` header, program, standard input. Reply: `REPLY` header, standard output, standard error.
"""

from __future__ import annotations

import struct

REQUEST = struct.Struct("<BdIQQII")  # language, wall s, CPU s, memory, output bytes, len(program), len(input)
REPLY = struct.Struct("<BiII")  # how it ended, wait status, len(stdout), len(stderr)

PYTHON, CPP = range(2)
EXITED, TIMED_OUT, OUTPUT_FULL, NOT_CONFINED, NOT_COMPILED, NO_COMPILER = range(6)

STDERR_BYTES = 4096
PLACE_BYTES = 64 << 20  # of the private folder of a program in a room, and of a file in it
COMPILERS = ("/usr/bin/g++", "/usr/bin/c++", "/usr/bin/clang++")
COMPILE_CPU_S, COMPILE_WALL_S, COMPILE_MEMORY = 20, 30.0, 2 << 30
