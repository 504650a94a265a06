"""`make demo`: a server, two devices, real files, both ways; then it stays up for you to play.

    ./demo/laptop   ./demo/phone     drop a file into one, see it in the other
    ./demo/server                    what the server holds: sealed bytes only

ONCE=1 does the same, checks byte equality, prints `demo ok: …` and ends.
"""

import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

from ops.lab import Lab, LabError, Standalone, difference, snapshot

FOLDER = Path("demo")


def say(text: str) -> None:
    """Print at once, also into a pipe."""
    print(text, flush=True)


def sample(root: Path) -> tuple[int, int]:
    """Fill a folder with files like anyone's; return their number and bytes."""
    dice = random.Random(2026)
    files = {
        "Welcome.md": b"# Syncline\n\nDrop a file here; it appears on the phone.\n",
        "Notes/Gr\u00fc\u00dfe aus K\u00f6ln \u2603.txt": "Schöne Grüße!\n".encode(),
        "Notes/empty.txt": b"",
        "Code/run.sh": b"#!/bin/sh\necho hello\n",
        "Photos/2026/holiday.raw": dice.randbytes(3_000_000),
    }
    files |= {
        f"Letters/{n // 20}/letter-{n}.txt": dice.randbytes(2_000).hex().encode()
        for n in range(200)
    }
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (root / "Code/run.sh").chmod(0o755)
    (root / "latest").symlink_to("Photos/2026/holiday.raw")
    return len(files) + 1, sum(map(len, files.values()))


def show(lab: Lab) -> str:
    """Sync both ways, say what happened; return the figures."""
    begun = time.monotonic()
    laptop = lab.device("laptop")
    phone = lab.device("phone")
    say(f"  devices    laptop and phone are signed in ({time.monotonic() - begun:.1f} s)")

    begun = time.monotonic()
    count, size_bytes = sample(laptop.root)
    lab.settle()
    first_s = time.monotonic() - begun
    say(
        f"  first sync {count} files, {size_bytes / 1e6:.1f} MB, laptop -> phone in {first_s:.1f} s"
    )

    begun = time.monotonic()
    (phone.root / "Notes/from the phone.txt").write_text("Hello back!\n")
    (phone.root / "Letters/0").rename(phone.root / "Letters/answered")
    (phone.root / "Photos/2026/holiday.raw").unlink()
    (laptop.root / "Welcome.md").write_text("# Syncline\n\nEdited on the laptop.\n")
    tree = lab.settle()
    back_s = time.monotonic() - begun
    say(f"  both ways  a new file, a renamed folder, a deletion, an edit in {back_s:.1f} s")

    wrong = difference(snapshot(laptop.root), snapshot(phone.root))
    if wrong or "Notes/from the phone.txt" not in tree or "Letters/answered" not in tree:
        raise LabError(f"the folders differ:\n{wrong}")
    leaks = search(
        lab.folder / "server", [b"Hello back", b"Edited on the laptop", b"from the phone"]
    )
    if leaks:
        raise LabError(f"plain text found on the server: {leaks}")
    say("  sealed     no name and no word of it is readable in ./demo/server")
    return f"{count} files, {size_bytes} bytes, first sync {first_s:.2f} s, back {back_s:.2f} s"


def search(folder: Path, needles: list[bytes]) -> list[str]:
    """Return the files below `folder` that contain one of the needles."""
    return [
        str(path)
        for path in folder.rglob("*")
        if path.is_file() and any(needle in path.read_bytes() for needle in needles)
    ]


def main() -> int:
    """Run the demo; return the exit code."""
    once = os.environ.get("ONCE", "") not in ("", "0")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if FOLDER.exists():
        shutil.rmtree(FOLDER)
    say("Syncline: two devices, one server, end-to-end encrypted")
    try:
        with Lab(FOLDER.resolve(), Standalone) as lab:
            say(f"  server     {lab.server.urls[0]}")
            figures = show(lab)
            say(f"demo ok: {figures}")
            if not once:
                say(
                    "\nIt stays up: edit files in ./demo/laptop and ./demo/phone. Ctrl-C stops all."
                )
                signal.pause()
    except KeyboardInterrupt:
        say("stopped")
    except LabError as error:
        say(f"demo failed: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
