"""Makes the books of this folder again from the Debian packages they come from; see README.md.

python bench/data/prepare.py FOLDER    # FOLDER holds jargon-text_*.deb and fortunes-zh_*.deb
"""

import gzip
import hashlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ENGLISH = "jargon-file.txt"
CHINESE = "chinese-classics.txt"
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def unpack(debs: Path, package: str, target: Path) -> Path:
    """The folder `usr/share` of one package."""
    found = sorted(debs.glob(f"{package}_*.deb"))
    if not found:
        raise SystemExit(f"no {package}_*.deb in {debs}: apt-get download {package}")
    subprocess.run(["dpkg-deb", "-x", str(found[-1]), str(target / package)], check=True)
    return target / package / "usr/share"


def fortunes(path: Path) -> list[str]:
    """The entries of a fortune file, without terminal colours and trailing blanks."""
    text = COLOUR.sub("", path.read_text(encoding="utf-8"))
    entries = re.split(r"(?m)^%\n", text)
    return [re.sub(r"[ \t]+$", "", entry, flags=re.M).strip("\n") for entry in entries if entry.strip()]


def quotations(entries: list[str], work: str, chapter: str = "") -> str:
    """The entries signed with `work` (and `chapter`) in the file's order, all signature lines cut off."""
    signed = re.compile(rf"^\s*--\s*《{work}》{chapter}$", flags=re.M)
    signature = re.compile(r"^\s*--.*\n?", flags=re.M)
    return "\n\n".join(signature.sub("", entry).strip("\n") for entry in entries if signed.search(entry))


def classics(fortune_folder: Path) -> str:
    quoted = fortunes(fortune_folder / "chinese")
    poems = fortunes(fortune_folder / "tang300")
    # The package signs the first four books of the Analects by name and keeps the others in order.
    analects = [quotations(quoted, "论语", chapter) for chapter in ("学而", "为政", "八佾", "里仁", "")]
    parts = [
        ("道德经", quotations(quoted, "道德经")),
        ("论语", "\n\n".join(analects)),
        ("唐诗三百首", "\n\n".join(poems)),
    ]
    return "\n\n\n".join(f"{title}\n\n{body}" for title, body in parts) + "\n"


def main(debs: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        jargon = unpack(debs, "jargon-text", Path(folder)) / "doc/jargon-text/jargon.txt.gz"
        (HERE / ENGLISH).write_bytes(gzip.decompress(jargon.read_bytes()))
        fortune_folder = unpack(debs, "fortunes-zh", Path(folder)) / "games/fortunes"
        (HERE / CHINESE).write_bytes(classics(fortune_folder).encode())
    for name in (ENGLISH, CHINESE):
        content = (HERE / name).read_bytes()
        print(f"{name}  {len(content)} bytes  sha256 {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]))
