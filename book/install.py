"""Make `.venv` and install the book into it, or say in one line what is in the way and what to do.

It runs before anything is installed, on whatever Python the machine has: standard library alone, no new syntax.
"""

import hashlib
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST = (3, 11)
LISTS = {
    "book": ("requirements.txt", "pyproject.toml"),
    "test": ("tests/requirements.txt",),
}
WHEELS = ("--prefer-binary", "--progress-bar=raw")
# Gigabytes while the installation runs, measured with PyTorch's CUDA wheels: PyPI's default on Linux.
PLACES = (
    (ROOT, 7.5, ".venv"),
    (
        Path(tempfile.gettempdir()),
        3.5,
        "pip's temporary files (elsewhere: make book TMPDIR=/folder)",
    ),
    (Path.home(), 3.5, "pip's cache (without: make book PIP_NO_CACHE_DIR=1)"),
)
# Seconds between two signs of life, where they overwrite each other and where each is a line of its own.
ON_TERMINAL, ELSEWHERE = 0.5, 10
LAST = 15  # lines of pip's that are shown where it fails
# What pip says on its way out, and what helps. The first that fits: an unreachable index also finds no versions.
ADVICE = (
    (
        r"No space left on device",
        "the disk is full. Free some, or name a folder for temporary files: make book TMPDIR=/folder",
    ),
    (
        r"ProxyError|Tunnel connection failed|407 Proxy",
        "pip does not get through the proxy {proxy}. Name it in full: make book HTTPS_PROXY=http://user:password@host:port",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED|SSLError",
        "the index's certificate is not trusted, as behind a proxy that reads along. Name your organisation's: "
        "make book PIP_CERT=/path/to/certificates.pem",
    ),
    (
        r"connection broken by|Max retries exceeded|Temporary failure in name resolution|Network is unreachable|timed out",
        "pip does not reach the package index. Behind a proxy: make book HTTPS_PROXY=http://host:port. "
        "With an index of your own: make book PIP_INDEX_URL=https://host/simple",
    ),
    (
        r"Failed building wheel|command '\S+' failed|[Nn]o such file or directory: '\S*(?:cc|\+\+)'|Unknown compiler"
        r"|Rust|Microsoft Visual C\+\+",
        "a package has no wheel for Python {python} here and would need a compiler. Name a Python that has one: "
        "make book PYTHON=python3.12. Or install a compiler (Debian: apt-get install build-essential python3-dev)",
    ),
    (
        r"No matching distribution|ResolutionImpossible",
        "the index lacks what the book needs for Python {python}. Name another Python: make book PYTHON=python3.12. "
        "Or the index that has it: make book PIP_INDEX_URL=https://pypi.org/simple",
    ),
)


def advice(said):
    """Return what to do about the error that pip printed."""
    for pattern, what in ADVICE:
        if re.search(pattern, said):
            proxy = (
                os.environ.get("HTTPS_PROXY")
                or os.environ.get("https_proxy")
                or "of pip's configuration"
            )
            shown = re.sub(r"//[^@/]*@", "//", proxy)  # without a password
            return what.format(
                proxy=shown, python="{}.{}".format(*sys.version_info)
            )
    return "pip stopped, and says above why. `make book` goes on from there"


def fault(environment):
    """Return why an environment cannot be used, or nothing."""
    python = environment / "bin" / "python"
    try:
        ask = [
            str(python),
            "-c",
            "import sys; print(*sys.version_info[:2]); import pip",
        ]
        answer = subprocess.run(
            ask,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
    except OSError:
        return "its Python is gone"
    version = tuple(map(int, answer.stdout.split()))
    if version < OLDEST:
        return (
            "its Python is {}".format(".".join(map(str, version)))
            if version
            else "its Python does not start"
        )
    if answer.returncode:
        return "it has no pip, or was made by another Python"
    script = environment / "bin" / "pip"
    # Scripts name the Python that runs them by its path; behind a link, by either.
    paths = [
        os.fsencode(str(folder / "bin" / "python"))
        for folder in (environment, environment.resolve())
    ]
    if script.exists() and not any(
        path in script.read_bytes()[:1000] for path in paths
    ):
        return "it was made in another folder"
    return ""


def shortage(places):
    """Return which disk has too little room for an installation, or nothing."""
    disks = defaultdict(list)
    for place in places:
        if place[0].exists() and not (
            "cache" in place[2] and os.environ.get("PIP_NO_CACHE_DIR")
        ):
            disks[os.stat(str(place[0])).st_dev].append(place)
    for needs in disks.values():
        folder, need = needs[0][0], sum(gigabytes for _, gigabytes, _ in needs)
        free = shutil.disk_usage(str(folder)).free / 1e9
        if free < need:
            what = ", ".join(
                f"{gigabytes} for {name}" for _, gigabytes, name in needs
            )
            return f"{folder} has {free:.1f} GB free, and the installation takes {need}: {what}"
    return ""


def make(environment):
    """Make an environment with pip in it, in place of one that cannot be used."""
    if sys.version_info < OLDEST:
        sys.exit(
            "The book needs Python 3.11 or newer, and {} is {}.{}. Name another: make book PYTHON=python3.12".format(
                sys.executable, *sys.version_info
            )
        )
    if environment.exists() and not (environment / "pyvenv.cfg").exists():
        sys.exit(
            f"{environment} is no virtual environment, and the book needs that name: move it away"
        )
    lacking = shortage(PLACES)
    if lacking:
        sys.exit(lacking)
    try:
        import ensurepip  # noqa: F401
    except ImportError:
        sys.exit(
            f"{sys.executable} cannot make environments (Debian: apt-get install python3-venv)"
        )
    start = time.monotonic()
    made = subprocess.run(
        [sys.executable, "-m", "venv", "--clear", str(environment)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if made.returncode:
        sys.exit(
            f"{made.stdout}{sys.executable} could not make {environment}, and says above why"
        )
    print(f"  made: {time.monotonic() - start:.0f} s", flush=True)


class Progress:
    """How far `pip install` is, from the lines that it prints: a sign of life now and then, and a line for each step."""

    def __init__(self, environment):
        self.environment, self.start = environment, time.time()
        self.said, self.packages, self.bytes, self.total = [], set(), {}, 0
        self.file, self.begun, self.shown = "", self.start, self.start

    def hear(self, line):
        """Take in what pip says next."""
        size = re.match(r"Progress (\d+) of", line)
        if size:
            self.bytes[self.file] = int(size.group(1))
            return
        self.said.append(line)
        package = re.match(
            r"\s*(?:Collecting |Obtaining |Processing \S*/)([\w.]+|file:)", line
        )
        if package:
            self.packages.add(package.group(1))
        elif re.match(r"\s*Downloading ", line):
            self.file = line.split()[1]
        elif line.startswith("Installing collected packages: "):
            self.end_step()
            self.total = line.count(",") + 1

    def state(self):
        """Return what is done of this step."""
        if self.total:
            folders = self.environment.glob("lib/*/site-packages/*.dist-info")
            fresh = sum(folder.stat().st_mtime >= self.start for folder in folders)
            return f"{fresh} of {self.total} packages installed"
        loaded = sum(self.bytes.values()) / 1e6
        return (
            f"{len(self.packages)} packages to install, {loaded:.0f} MB downloaded"
        )

    def show(self):
        """Give a sign of life if it is time for one."""
        now, terminal = time.time(), sys.stdout.isatty()
        if now - self.shown < (ON_TERMINAL if terminal else ELSEWHERE):
            return
        self.shown = now
        line = f"  ... {self.state()}, {now - self.begun:.0f} s"
        if terminal:
            line = "\r\x1b[K" + line[: shutil.get_terminal_size().columns - 1]
        print(line, end="" if terminal else "\n", flush=True)

    def end_step(self):
        """Say what this step did, and how long it took."""
        now, clear = time.time(), "\r\x1b[K" if sys.stdout.isatty() else ""
        print(f"{clear}  {self.state()}: {now - self.begun:.0f} s", flush=True)
        self.begun = self.shown = now


def pip(environment, *arguments):
    """Run `pip install`, and say how far it is; where it fails, what it said and what to do."""
    command = [str(environment / "bin" / "python"), "-m", "pip", "install"]
    progress, rest = Progress(environment), b""
    # In a session of its own: Ctrl-C reaches pip once, from here, and finds the time to remove its temporary files.
    with subprocess.Popen(
        [*command, "--disable-pip-version-check", "--no-input", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=str(ROOT),
        env=dict(os.environ, PYTHONUNBUFFERED="1"),
        start_new_session=True,
    ) as process:
        try:
            output = process.stdout.fileno()
            while True:
                if select.select([output], [], [], ON_TERMINAL)[0]:
                    heard = os.read(output, 65536)
                    if not heard:
                        break
                    *lines, rest = (rest + heard).split(b"\n")
                    for line in lines:
                        progress.hear(line.decode(errors="replace"))
                progress.show()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            process.communicate()
            raise
    if process.returncode:
        said = "\n".join([*progress.said, rest.decode(errors="replace")])
        last = "\n".join(said.splitlines()[-LAST:])
        sys.exit(f"\n{last}\nNot installed: {advice(said)}.")
    progress.end_step()


def install(what, environment=ROOT / ".venv"):
    """Bring an environment up to the lists of packages; where that is done already, do nothing.

    The stamp is written last, so an interrupted installation is taken up again.
    """
    digest = hashlib.sha256(
        b"".join((ROOT / name).read_bytes() for name in LISTS[what])
    ).hexdigest()
    stamp, wrong = environment / ("." + what), fault(environment)
    if not wrong and stamp.exists() and stamp.read_text() == digest:
        return
    if wrong:
        print(
            "Making .venv" + (" anew: " + wrong if environment.exists() else ""),
            flush=True,
        )
        make(environment)
    if what == "book":
        print(
            "Installing the book's packages into .venv: with PyTorch about 7 GB, some minutes",
            flush=True,
        )
        # First what is small: a network that fails does so in seconds. From 24.1 on, pip says how far a download is.
        pip(environment, "--upgrade", "pip>=24.1")
        pip(
            environment, *WHEELS, "--editable", ".", "--requirement", LISTS[what][0]
        )
        settings = environment / "etc" / "ipython"
        settings.mkdir(parents=True, exist_ok=True)
        (settings / "ipython_kernel_config.py").write_text(
            "c.IPKernelApp.log_level = 40  # errors; ipykernel 7.4 warns of sockets that never leave this machine\n"
        )
    else:
        print("Installing what the tests need", flush=True)
        pip(environment, *WHEELS, "--requirement", LISTS[what][0])
    stamp.write_text(digest)


if __name__ == "__main__":
    try:
        install(sys.argv[1])
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on from there.", file=sys.stderr)
        sys.exit(130)
