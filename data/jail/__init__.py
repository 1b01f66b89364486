"""The process inside which untrusted programs run; standard library only, started by `data.sandbox`.

For each request from standard input it forks a handler before the request is read, and the handler a child, which
takes its limits, gives up its user and becomes the program. So no child is born of a process that has seen another
request, and there is nothing of one program that a later one could find. Expected outputs never come here. When
the parent dies, standard input ends, and these processes end with it.

Request: `REQUEST` header, program, standard input. Reply: `REPLY` header, standard output, standard error.
"""

from __future__ import annotations

import struct

REQUEST = struct.Struct("<BdIQQII")  # what to do, wall s, CPU s, memory, output bytes, len(program), len(input)
REPLY = struct.Struct("<BiII")  # how it ended, wait status, len(stdout), len(stderr)

PYTHON, BINARY, COMPILE = range(3)  # run a source, run what was compiled, or compile: standard output is the binary
EXITED, TIMED_OUT, OUTPUT_FULL, NOT_CONFINED, NOT_COMPILED, NO_COMPILER = range(6)

STDERR_BYTES = 4096
PLACE_BYTES = 64 << 20  # of the private folder of a program in a room, and of a file in it
COMPILERS = ("/usr/bin/g++", "/usr/bin/c++", "/usr/bin/clang++")
COMPILE_MEMORY = 2 << 30
BINARY_BYTES = 16 << 20
