"""What a program sees and can do in a room, and which rooms a host grants. Each program prints what it found."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from data import sandbox
from data.jail import COMPILERS, PYTHON
from data.sandbox import CodeLanguage, Jail, Limits, Outcome, SandboxError, Test, choose, refusal, run

TIGHT = Limits(cpu_s=5, wall_s=30.0, memory_mb=128, output_bytes=10_000)
ROOMY = Limits(cpu_s=10, wall_s=60.0)
ROOT = Path(__file__).parents[2]
ADD = [Test("1 2\n", "3\n"), Test("5 6", "11")]
SUM = "a, b = map(int, input().split())\nprint(a + b)"


@pytest.fixture(params=["rlimit", "unshare", "bubblewrap"])
def jail(request: pytest.FixtureRequest) -> Iterator[Jail]:
    if why := refusal(request.param):
        pytest.skip(why)
    with Jail(ROOMY, request.param) as jail:
        yield jail


def found(jail: Jail, program: str) -> str:
    """What a Python program prints."""
    how, status, stdout, stderr = jail._ask(jail._request(PYTHON, program.encode(), b""))
    assert (how, status) == (0, 0), stderr
    return stdout.decode().strip()


@pytest.fixture(params=["unshare", "bubblewrap"])
def room(request: pytest.FixtureRequest) -> Iterator[Jail]:
    if why := refusal(request.param):
        pytest.skip(why)
    with Jail(ROOMY, request.param) as jail:
        yield jail


def test_a_room_shows_system_files_and_nothing_else(room: Jail) -> None:
    top = found(room, "import os\nprint(*sorted(os.listdir('/')))").split()
    allowed = {"bin", "dev", "etc", "lib", "lib32", "lib64", "proc", "r1", "tmp", "usr"}
    python = Path(os.path.realpath(sys.base_prefix)).parts[1]
    assert set(top) <= allowed | {python}
    assert found(room, "import os\nprint(*sorted(os.listdir('/etc')))").split() == ["alternatives", "ld.so.cache"]
    assert found(room, "import os\nprint(os.getcwd(), os.listdir('.'))") == "/tmp []"
    for path in (
        Path(__file__),
        Path(sandbox.__file__),
        Path.home() / ".bashrc",
        Path("/etc/passwd"),
        Path(pytest.__file__),
    ):
        assert found(room, f"import os\nprint(os.path.exists({str(path)!r}))") == "False"
    if python not in allowed:
        walk = f"import os\nprint([f for _, _, fs in os.walk('/{python}') for f in fs if f.endswith('.py')][:1] != [])"
        assert found(room, walk) == "True"  # the standard library lies there
        assert found(room, f"import os\nprint('site-packages' in str(list(os.walk('/{python}'))))") == "True"
        full = f"import os\nprint([f for d, _, f in os.walk('/{python}') if d.endswith('site-packages') and f])"
        assert found(room, full) == "[]"


def test_nothing_in_a_room_can_be_written_but_the_private_folder(room: Jail) -> None:
    attack = """
import os
written = []
for folder, _, names in os.walk('/'):
    if not folder.startswith(('/proc', '/usr')):
        new, file = folder + '/new', folder + '/file'
        for act in (lambda: os.mkdir(new), lambda: open(file, 'w'), lambda: os.chmod(folder, 0o777)):
            try: act()
            except OSError: continue
            written.append(folder)
print(sorted(set(written)))"""
    assert found(room, attack) in ("['/tmp']", "['/tmp', '/tmp/new']")


@pytest.mark.parametrize(
    "spoil",
    [
        "open('left', 'w').write('x')", "os.mkdir('left')", "os.chmod('/tmp', 0)", "os.symlink('/', 'left')",
        "os.mkfifo('left')", "open('a', 'w').close(); os.unlink('a')",
        "[(os.mkdir('d'), os.chdir('d')) for _ in range(500)]",
        "[open(str(n), 'w').close() for n in range(3000)]",
    ],
)  # fmt: skip
def test_each_program_has_a_new_folder(room: Jail, spoil: str) -> None:
    look = "import os\ns = os.stat('/tmp')\nprint(os.listdir('/tmp'), oct(s.st_mode), os.statvfs('/tmp').f_ffree)"
    before = found(room, look)
    assert before.startswith("[] 0o41777")
    with_stop = f"import os\ntry:\n    {spoil}\nexcept PermissionError: pass"
    found(room, with_stop)
    assert found(room, look) == before


def test_a_private_folder_is_bounded_in_bytes_and_files(room: Jail) -> None:
    many = """
n = 0
try:
    while True:
        open(f'/tmp/{n}', 'w').close()
        n += 1
except OSError as e: print(n, e.errno)"""
    assert found(room, many) == "4095 28"
    full = """
n = 0
try:
    for i in range(9):
        f = open(f'/tmp/{i}', 'wb', 0)
        for _ in range(16): n += f.write(bytes(1 << 20))
except OSError as e: print(n >> 20, e.errno)"""
    assert found(room, full) == "64 28"
    assert found(room, "import os\nprint(os.statvfs('/tmp').f_bfree * 4096 >> 20)") == "64"


def test_a_room_has_three_processes_and_no_network(room: Jail) -> None:
    assert found(room, "import os\nprint(len([p for p in os.listdir('/proc') if p.isdigit()]))") == "3"
    assert found(room, "print([l.split(':')[0].strip() for l in open('/proc/net/dev')][2:])") == "['lo']"
    hidden = """
import os
seen = []
for name in ('environ', 'mem', 'maps', 'fd', 'root', 'cwd', 'exe'):
    try: os.listdir('/proc/1/fd') if name == 'fd' else open('/proc/1/' + name, 'rb').read(1)
    except OSError: continue
    seen.append(name)
print(seen)"""
    assert found(room, hidden) == "[]"


def test_a_program_has_three_descriptors_no_capability_and_no_other_call(jail: Jail) -> None:
    assert (
        found(jail, "import os\nprint([n for n in range(99) if os.path.exists(f'/proc/self/fd/{n}')][:3])")
        == "[0, 1, 2]"
    )
    assert (
        found(jail, "print([l[-2] for l in open('/proc/self/status') if l[:6] in ('CapPrm', 'CapEff')])")
        == "['0', '0']"
    )
    calls = {"socket": 41, "ptrace": 101, "mount": 165, "unshare": 272, "shmget": 29, "keyctl": 250, "memfd": 319,
             "bpf": 321, "io_uring": 425, "pidfd": 434, "x32 socket": (1 << 30) + 41}  # fmt: skip
    if os.uname().machine == "x86_64":
        attack = f"""
import ctypes
libc = ctypes.CDLL(None)
print([name for name, number in {calls}.items() if libc.syscall(number, 0, 0, 0, 0) >= 0])"""
        assert found(jail, attack) == "[]"


@pytest.mark.parametrize(
    "act",
    [
        "os.kill(1, 9)", "os.kill(os.getppid(), 15)", "os.kill(-1, 9)", "resource.prlimit(os.getppid(), 0)",
        "fcntl.fcntl(0, fcntl.F_SETOWN, os.getppid())", "fcntl.fcntl(0, 10, 9)", "fcntl.fcntl(0, 15, bytes(8))",
        "fcntl.ioctl(0, 0x8901, bytes(4))", "os.sched_setaffinity(os.getppid(), [0])", "os.nice(1)",
        "os.sched_setscheduler(os.getppid(), os.SCHED_IDLE, os.sched_param(0))", "os.setpriority(0, os.getppid(), 9)",
    ],
)  # fmt: skip
def test_no_other_process_is_reached(jail: Jail, act: str) -> None:
    outcome = jail.test(f"import fcntl, os, resource\n{act}", ADD[0])
    assert outcome.detail == "PermissionError: [Errno 1] Operation not permitted"
    assert jail.test(SUM, ADD[0]) == Outcome("passed")


def test_calls_of_the_same_name_that_reach_nobody_work(jail: Jail) -> None:
    own = """
import fcntl, os
os.kill(os.getpid(), 0)
os.sched_setaffinity(0, os.sched_getaffinity(0))
print(fcntl.fcntl(1, fcntl.F_GETFD), fcntl.fcntl(1, fcntl.F_SETFL, os.O_NONBLOCK), os.isatty(1))"""
    assert found(jail, own) == "0 0 False"


LOOK = """
import gc, os
seen = [str(gc.get_objects()).encode()]
for fd in range(64):
    try: seen.append(os.pread(fd, 1 << 20, 0))
    except OSError: pass
with open('/proc/self/mem', 'rb', 0) as memory:
    for line in open('/proc/self/maps'):
        low, high = (int(x, 16) for x in line.split()[0].split('-'))
        try: memory.seek(low); seen.append(memory.read(high - low))
        except (OSError, ValueError, OverflowError): pass
print(any(bytes.fromhex('WORD') in each for each in seen))"""


@pytest.mark.parametrize("language", ["python", "cpp"])
def test_a_program_finds_nothing_of_the_one_before(jail: Jail, language: CodeLanguage) -> None:
    if language == "cpp" and not any(os.path.exists(path) for path in COMPILERS):
        pytest.skip("no C++ compiler")
    word = b"a word that only the one before has known"
    look = LOOK.replace("WORD", word.hex())
    source = {
        "python": f"word = '{word.decode()}'\nprint(input())",
        "cpp": "#include <cstdio>\nint main() { char a[99]; fgets(a, 99, stdin);"
        f' puts(a[0] ? a : "{word.decode()}"); }}',
    }[language]
    assert jail.test(source, Test(word.decode(), word.decode()), language) == Outcome("passed")
    assert found(jail, look) == "False"
    assert jail.test(f"kept = input()\n{look}", Test(word.decode(), "True")) == Outcome("passed")


def test_limits_alone_leave_files_as_they_are(tmp_path: Path) -> None:
    attack = """
import mmap, os
os.chdir('FOLDER')
def mapped():
    with open('file', 'r+b') as file: mmap.mmap(file.fileno(), 0)[0] = 120
acts = [lambda: os.mkdir('new'), lambda: os.unlink('file'), lambda: os.rename('file', 'other'), mapped,
        lambda: os.chmod('file', 0), lambda: os.utime('file', (0, 0)), lambda: os.link('file', 'other'),
        lambda: os.symlink('file', 'other'), lambda: os.truncate('file', 0), lambda: open('file', 'w'),
        lambda: open('new', 'x'), lambda: os.open('.', os.O_TMPFILE | os.O_WRONLY), lambda: os.mkfifo('new'),
        lambda: os.setxattr('file', 'user.word', b'x'), lambda: os.rmdir('inner')]
done = []
for number, act in enumerate(acts):
    try: act()
    except PermissionError: continue
    done.append(number)
print(done, open('file').read())"""
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o777)
    (tmp_path / "file").write_text("whole")
    (tmp_path / "file").chmod(0o666)
    (tmp_path / "inner").mkdir()
    with Jail(ROOMY, "rlimit") as jail:
        assert found(jail, attack.replace("FOLDER", str(tmp_path))) == "[] whole"
    assert sorted(os.listdir(tmp_path)) == ["file", "inner"]


def test_the_input_cannot_be_changed_and_the_jail_is_forgotten(jail: Jail) -> None:
    assert jail.test("import os\nos.write(0, b'x')", ADD[0]).status == "error"
    assert found(jail, "import sys\nprint([m for m in sys.modules if m.split('.')[0] in ('data', 'jail')])") == "[]"


def test_a_program_that_writes_the_reply_itself_gains_nothing(jail: Jail) -> None:
    forged = """
import os, struct
for fd in range(64):
    try: os.write(fd, struct.pack('<BiII', 0, 0, 2, 0) + b'3\\n')
    except OSError: pass"""
    assert jail.test(forged, ADD[0]).status == "wrong_output"
    assert jail.test(SUM, ADD[0]) == Outcome("passed")


# What the host grants.


def test_the_strongest_isolation_is_chosen_and_the_weakest_only_where_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    granted = {"bubblewrap": "", "unshare": "", "rlimit": ""}
    monkeypatch.setattr(sandbox, "refusal", lambda isolation: granted[isolation])
    assert choose(allow_rlimit=False) == "bubblewrap"
    granted["bubblewrap"] = "not installed"
    assert choose(allow_rlimit=True) == choose(allow_rlimit=False) == "unshare"
    granted["unshare"] = "not permitted"
    assert choose(allow_rlimit=True) == "rlimit"
    assert choose(allow_rlimit=False) == "none"
    with pytest.raises(ValueError, match=r"\(bubblewrap: not installed; unshare: not permitted\). Install bubblewrap"):
        run(SUM, ADD, isolation="none")


def test_a_host_without_bubblewrap_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with Jail(TIGHT, "bubblewrap") as jail, pytest.raises(SandboxError, match="bwrap is not installed"):
        jail.test("", ADD[0])


@pytest.mark.skipif(os.getuid() != 0 or shutil.which("setpriv") is None, reason="needs root and setpriv")
def test_root_without_the_right_to_make_namespaces_is_refused_both_rooms() -> None:
    ask = """
from data.sandbox import *
print(*(bool(refusal(each)) for each in ('bubblewrap', 'unshare', 'rlimit')), choose(False))"""
    drop = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"]
    said = subprocess.run([*drop, sys.executable, "-c", ask], capture_output=True, text=True, check=True, cwd=ROOT)
    assert said.stdout.split() == ["True", "True", "False", "none"]


@pytest.mark.skipif(os.getuid() != 0 or shutil.which("setpriv") is None, reason="needs root and setpriv")
def test_an_ordinary_user_has_the_same_rooms(tmp_path_factory: pytest.TempPathFactory) -> None:
    python = "/usr/bin/python3"
    if (
        not os.access(python, os.X_OK)
        or subprocess.run([python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]).returncode
    ):
        pytest.skip("no Python 3.11 that every user may run")
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        shutil.copytree(ROOT / "data" / "jail", f"{place}/data/jail", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("__init__.py", "pipes.py", "sandbox.py"):
            shutil.copy(ROOT / "data" / name, f"{place}/data/{name}")
        ask = """
from data.sandbox import *
programs = ('print(3)', 'import os; os.fork()', 'import os; os.chmod("/tmp", 0); print(3)',
            'print(open("/etc/passwd") and 3)')
for isolation in ('bubblewrap', 'unshare', 'rlimit'):
    why = refusal(isolation)
    said = [] if why else [run(each, [Test('', '3')], isolation=isolation)[0].status for each in programs]
    print(isolation, why or said)"""
        drop = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        said = subprocess.run([*drop, python, "-c", ask], capture_output=True, text=True, check=True, cwd=place)
    lines = said.stdout.splitlines()
    for line in lines[:2]:
        if "[" not in line:
            pytest.skip(line)
        assert line.endswith("['passed', 'error', 'passed', 'error']")
    assert lines[2].endswith("['passed', 'error', 'error', 'passed']")
