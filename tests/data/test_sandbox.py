"""Programs that cheat, attack, or just work: none that cheats passes, all end."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from data import sandbox
from data.jail import COMPILERS
from data.sandbox import Isolation, Jail, Limits, Outcome, SandboxError, Test, choose, refusal, run, same_output

TIGHT = Limits(cpu_s=1, wall_s=2.0, memory_mb=128, output_bytes=10_000)
ADD = [Test("1 2\n", "3\n"), Test("5 6", "11")]
SUM = "a, b = map(int, input().split())\nprint(a + b)"


ROOMY = Limits(cpu_s=10, wall_s=60.0)
ISOLATION = choose(allow_rlimit=True)


@pytest.fixture(params=["rlimit", "unshare", "bubblewrap"])
def isolation(request: pytest.FixtureRequest) -> Isolation:
    if why := refusal(request.param):
        pytest.skip(why)
    return request.param


@pytest.fixture
def jail(isolation: Isolation) -> Iterator[Jail]:
    with Jail(TIGHT, isolation) as jail:
        yield jail


def test_a_right_program_passes_every_test(isolation: Isolation) -> None:
    assert [outcome.status for outcome in run(SUM, ADD, limits=TIGHT, isolation=isolation)] == [
        "passed",
        "passed",
    ]


@pytest.mark.parametrize(
    ("program", "status", "detail"),
    [
        ("while True: pass", "timeout", None),
        ("import time; time.sleep(60)", "timeout", "wall time"),
        ("import os, time; os.close(1); os.close(2); time.sleep(60)", "timeout", "wall time"),
        ("while True: print('x' * 1000)", "limit", "output"),
        ("x = [0] * 10**10", "limit", "MemoryError"),
        ("x = []\nwhile True: x.append(bytearray(10**6))", "limit", "MemoryError"),
        ("import sys; print(3); sys.exit(1)", "error", "exit code 1"),
        ("import sys; sys.exit(0)", "wrong_output", "0 bytes printed"),
        ("import os; os._exit(0)", "wrong_output", "0 bytes printed"),
        ("class E:\n    def __eq__(self, other): return True\n    def __repr__(self): return ''\nprint(E())",
         "wrong_output", "1 bytes printed"),
        ("(", "error", "SyntaxError: '(' was never closed"),
        ("\0", "error", "SyntaxError: source code string cannot contain null bytes"),
        ("print(\ud800)", "error", None),
        ("import os\nwhile True: os.fork()", "error",
         "BlockingIOError: [Errno 11] Resource temporarily unavailable"),
        ("import subprocess; subprocess.run(['true'])", "error", None),
        ("import threading; threading.Thread(target=print).start()", "error",
         "RuntimeError: can't start new thread"),
        ("import numpy", "error", "ModuleNotFoundError: No module named 'numpy'"),
        ("open('/mine', 'w')", "error", None),
        ("import resource\nresource.setrlimit(resource.RLIMIT_NPROC, (99, 99))", "error", None),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "error", "signal 11"),
    ],
)  # fmt: skip
def test_programs_that_must_not_pass(jail: Jail, program: str, status: str, detail: str | None) -> None:
    outcome = jail.test(program, ADD[0])
    assert outcome.status == status
    assert detail in (None, outcome.detail)
    assert jail.test(SUM, ADD[0]).status == "passed"


def test_processor_time_is_counted(isolation: Isolation) -> None:
    with Jail(Limits(cpu_s=1, wall_s=60.0), isolation) as jail:
        assert jail.test("while True: pass", ADD[0]) == Outcome("timeout", "processor time")


def test_fork_bombs_stay_bound_in_every_isolation(isolation: Isolation) -> None:
    bomb = "import os\nwhile True: os.fork()"
    assert run(bomb, ADD[:1], limits=TIGHT, isolation=isolation)[0].status == "error"


def test_printing_only_the_first_line_fails() -> None:
    assert run("print(1)", [Test("", "1\n2\n")])[0].status == "wrong_output"


def test_the_expected_output_is_nowhere_in_the_process(jail: Jail) -> None:
    look = (
        "import gc, os, sys\n"
        "frame, seen = sys._getframe(), ''\n"
        "while frame: seen += str(frame.f_locals) + str(frame.f_globals); frame = frame.f_back\n"
        "seen += sys.stdin.read() + str(os.environ) + open('/proc/self/cmdline').read()\n"
        "seen += str(gc.get_objects())\n"
        "print(''.join(['5f1c', '-sec']) in seen)"
    )
    assert jail.test(look, Test("", "5f1c-secret")).detail == f"{len('False') + 1} bytes printed"
    assert jail.test(look, Test("5f1c-secret", "5f1c-secret")).detail == f"{len('True') + 1} bytes printed"


def test_the_program_sees_no_environment_and_a_fixed_hash_seed(jail: Jail) -> None:
    assert jail.test("import os; print(dict(os.environ))", Test("", "{}")).status == "passed"
    assert jail.test("print(__name__, __import__('sys').argv)", Test("", "__main__ ['main.py']")).status == "passed"
    hashes = {jail.test(f"print(hash('a') == {hash_of_a()})", Test("", "True")).status for _ in range(2)}
    assert hashes == {"passed"}


def hash_of_a() -> int:
    command = [sys.executable, "-c", "print(hash('a'))"]
    return int(subprocess.run(command, env={"PYTHONHASHSEED": "0"}, capture_output=True, check=True).stdout)


def test_all_of_standard_input_and_output_work(jail: Jail) -> None:
    long = "".join(f"{number}\n" for number in range(100))
    for read in (
        "sys.stdin.read()",
        "open(0).read()",
        "open('/dev/stdin').read()",
        "sys.stdin.buffer.read().decode()",
    ):
        assert jail.test(f"import sys\nprint({read}, end='')", Test(long, long)).status == "passed"
    unflushed = "import sys\nout = open(1, 'w')\nout.write('中文')"
    assert jail.test(unflushed, Test("", "中文\n")).status == "passed"
    at_exit = "import atexit, collections.abc, json, random\natexit.register(print, 'bye')"
    assert jail.test(at_exit, Test("", "bye")).status == "passed"


def test_input_longer_than_a_pipe(jail: Jail) -> None:
    assert jail.test("import sys; print(len(sys.stdin.read()))", Test("x" * 3_000_000, "3000000")).status == "passed"


def test_stop_at_failure_ends_the_list() -> None:
    assert len(run("print(3)", [*ADD[:1], *ADD, *ADD], stop_at_failure=True)) == 3
    assert len(run("print(3)", [*ADD[:1], *ADD, *ADD])) == 5


def test_a_jail_that_dies_is_replaced(jail: Jail) -> None:
    assert jail.test(SUM, ADD[0]).status == "passed"
    assert jail._process is not None
    jail._process.kill()
    jail._process.wait()
    assert jail.test(SUM, ADD[0]).status == "passed"


def test_a_program_that_ends_its_jails_has_failed(jail: Jail, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = jail._ask

    def killed(request: bytes) -> tuple[int, int, bytes, bytes]:
        if b"kill" in request:
            raise SandboxError("the jail has died")
        return ask(request)

    monkeypatch.setattr(jail, "_ask", killed)
    assert jail.test("kill", ADD[0]) == Outcome("error", "ends its sandbox")


def test_a_sandbox_that_cannot_run_anything_says_so(jail: Jail, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_command", lambda isolation: ["/bin/sh", "-c", "echo broken >&2; exit 1"])
    with pytest.raises(SandboxError, match=r"(Broken pipe|died).*: broken"):
        jail.test(SUM, ADD[0])


def test_nothing_outlives_a_killed_parent(isolation: Isolation) -> None:
    script = (
        "from data.sandbox import *\n"
        f"jail = Jail(Limits(wall_s=60), {isolation!r})\n"
        "jail.test('', Test('', ''))\n"
        "print(jail._process.pid, flush=True)\n"
        "jail.test('import time; time.sleep(50)', Test('', ''))"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = parent.stdout.readline().strip()
        while len(below := _below(pid)) < (1 if isolation == "rlimit" else 2):
            time.sleep(0.01)
        parent.kill()
    for process in (pid, *below):
        while Path(f"/proc/{process}").exists() and "Z" not in _state(process):
            time.sleep(0.01)


def _below(process: str) -> list[str]:
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [each for child in children for each in (child, *_below(child))]


def _state(process: str) -> str:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "Z"


def test_nothing_is_left_behind(isolation: Isolation) -> None:
    with Jail(TIGHT, isolation) as jail:
        assert jail.test(SUM, ADD[0]).status == "passed"
        assert jail._process is not None
        pid = jail._process.pid
    assert subprocess.run(["ps", "-s", str(pid)], capture_output=True, check=False).returncode == 1


@pytest.mark.parametrize(
    ("actual", "expected", "same"),
    [
        ("3", "3\n", True),
        ("3  \n\n", "3", True),
        ("1\r\n2\r\n", "1\n2\n", True),
        ("1\n\n2", "1\n2", False),
        (" 3", "3", False),
        ("3\n4", "3", False),
        ("3", "3\n4", False),
        ("3.0", "3", False),
        ("3", "3.0", True),
        ("2.9999999", "3.0", True),
        ("2.99999", "3.0", False),
        ("1000000.9", "1e6", True),
        ("1000001.1", "1e6", False),
        ("1 0.50000001", "1 0.5", True),
        ("1  0.5", "1 0.50", False),
        ("2 0.5", "1 0.5", False),
        ("nan", "0.5", False),
        ("1e999", "1e998", False),
        ("0.5\n0.5", "0.5", False),
        ("１.5", "1.50", False),
        ("0.5 0.5", "0.5", False),
        ("", "", True),
        ("", "3", False),
    ],
)
def test_comparison(actual: str, expected: str, same: bool) -> None:
    assert same_output(actual, expected) is same


def test_user_errors_name_the_value() -> None:
    with pytest.raises(ValueError, match="unknown language 'rust'; allowed: python, cpp"):
        run("", ADD, "rust")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown isolation 'chroot'"):
        run("", ADD, isolation="chroot")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="limit cpu_s must be positive, got 0"):
        Limits(cpu_s=0)


# C++.

CPP_SUM = "#include <iostream>\nint main() { long a, b; std::cin >> a >> b; std::cout << a + b << std::endl; }"
needs_compiler = pytest.mark.skipif(not any(os.path.exists(path) for path in COMPILERS), reason="no C++ compiler")


@needs_compiler
def test_a_cpp_program_is_compiled_once_and_runs_on_every_test(isolation: Isolation) -> None:
    with Jail(ROOMY, isolation) as jail:
        assert run(CPP_SUM, ADD, "cpp", jail=jail) == [Outcome("passed")] * 2
        assert run(SUM, ADD, jail=jail) == [Outcome("passed")] * 2
        other = CPP_SUM.replace("a + b", "a - b")
        assert run(other, [Test("5 2", "3"), *ADD], "cpp", jail=jail) == [
            Outcome("passed"), Outcome("wrong_output", "3 bytes printed"), Outcome("wrong_output", "3 bytes printed"),
        ]  # fmt: skip


@needs_compiler
@pytest.mark.parametrize(
    ("program", "status", "detail"),
    [
        ("int main() { return x; }", "error", "does not compile: <stdin>:1:21: error: 'x' was not declared"),
        ("", "error", "does not compile: "),
        ('#include "/etc/hostname"\nint main() {}', "error", "does not compile: "),
        ("int main() { return 3; }", "error", "exit code 3"),
        ("int main() { for (;;); }", "timeout", ""),
        ("#include <cstdlib>\nint main() { abort(); }", "error", "signal 6"),
        ("int f(int n) { return n < 0 ? f(n - 1) + f(n - 2) : n; }\nint main() { return f(-1); }", "error", "signal"),
        ("#include <vector>\nint main() { std::vector<long> v(1L << 30, 1); return v[5]; }", "error", "signal 6"),
        ("#include <unistd.h>\nint main() { return fork() == -1 ? 7 : 0; }", "error", "exit code 7"),
        ("#include <cstdio>\nint main() { for (;;) puts(\"xxxxxxxxxxxxxxxxxxxxxxx\"); }", "limit", "output"),
        ("#include <sys/socket.h>\nint main() { return socket(2, 1, 0) < 0 ? 7 : 0; }", "error", "exit code 7"),
    ],
)  # fmt: skip
def test_cpp_programs_that_must_not_pass(program: str, status: str, detail: str) -> None:
    outcome = run(program, [Test("", "3")], "cpp", TIGHT, ISOLATION)[0]
    assert outcome.status == status
    assert outcome.detail.replace("‘", "'").replace("’", "'").startswith(detail)


@needs_compiler
def test_a_compiler_has_limits_of_its_own(isolation: Isolation, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = (
        "template<int n, int m> struct F { static const int v = F<n - 1, 2 * m>::v + F<n - 1, 2 * m + 1>::v; };\n"
        "template<int m> struct F<0, m> { static const int v = m; };\nint main() { return F<19, 0>::v; }"
    )
    assert Limits().compile_cpu_s == 10
    large = "char a[1 << 22] = {1};\nint main() {}"
    with Jail(replace(ROOMY, compile_cpu_s=1), isolation) as jail:
        assert jail.test(slow, ADD[0], "cpp").detail.startswith("does not compile: ")
        assert jail.test(large, Test("", ""), "cpp") == Outcome("passed")
        monkeypatch.setattr(sandbox.protocol, "BINARY_BYTES", 1 << 22)
        jail._compiled = None
        assert jail.test(large, Test("", ""), "cpp").detail.startswith("does not compile: ")
        assert jail.test(CPP_SUM, ADD[0], "cpp") == Outcome("passed")


@needs_compiler
def test_a_cpp_program_may_recurse_as_deep_as_its_memory() -> None:
    deep = (
        "#include <cstdio>\nvolatile int one = 1;\nint f(int n) { return n ? f(n - one) + one : 0; }\n"
        'int main() { printf("%d", f(1500000)); }'
    )
    assert run(deep, [Test("", "1500000")], "cpp", ROOMY, ISOLATION)[0] == Outcome("passed")


def test_without_a_compiler_nothing_is_said_about_a_cpp_program(monkeypatch: pytest.MonkeyPatch) -> None:
    command = sandbox._command(ISOLATION)
    boot = command.index(sandbox._BOOT)
    command[boot] = (
        "import sys; sys.path.insert(0, sys.argv[1]); import data.jail; data.jail.COMPILERS = ()\n" + command[boot]
    )
    monkeypatch.setattr(sandbox, "_command", lambda isolation: command)
    with (
        Jail(ROOMY, ISOLATION) as jail,
        pytest.raises(SandboxError, match=r"no C\+\+ compiler .*apt-get install g\+\+"),
    ):
        jail.test(CPP_SUM, ADD[0], "cpp")
