"""Makes folders at random with everything that a tree may have. Standard library only.

Run as a process, `random_trees.py FOLDER SEED` makes one.
"""

import hashlib
import os
import random
import sys
from pathlib import Path

NAMES = (
    "a",
    "b",
    "deep",
    "run.sh",
    ".hidden",
    "ä ö",
    "数据",
    "x" * 200,
    "back\\slash",
    "C:",
    "-rf",
)


def grow(root: Path, seed: int) -> None:
    """Makes a tree below a folder that is there."""
    dice = random.Random(seed)
    for _ in range(dice.randint(1, 25)):
        path = root.joinpath(*dice.choices(NAMES, k=dice.randint(1, 4)))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _put(path, root, dice)
        except OSError:  # something of that name is there, or links go round in a ring
            continue


def _put(path: Path, root: Path, dice: random.Random) -> None:
    match dice.randrange(6):
        case 0:
            path.mkdir()
            return
        case 1:
            ups = dice.randint(0, len(path.relative_to(root).parts) - 1)
            path.symlink_to("/".join([*[".."] * ups, *dice.choices(NAMES, k=dice.randint(1, 2))]))
            return
        case 2:
            _sparse(path, dice)
        case 3:
            path.write_bytes(b"")
        case _:
            path.write_bytes(dice.randbytes(dice.choice((1, 100, 16_384, 16_385, 300_000))))
    path.chmod(dice.choice((0o600, 0o644, 0o700, 0o755)))


def _sparse(path: Path, dice: random.Random) -> None:
    with path.open("xb") as file:
        for _ in range(dice.randrange(3)):
            file.seek(dice.randrange(8 << 20))
            file.write(dice.randbytes(dice.randrange(5000)))
        file.truncate(dice.randrange(16 << 20))


def picture(root: Path) -> dict[str, str]:
    """What is in a folder: kinds, contents, the owner's execute bit; folders if they are empty."""
    seen: dict[str, str] = {}
    for folder, names, files in os.walk(root):
        for name in (*names, *files):
            path = Path(folder, name)
            seen[path.relative_to(root).as_posix()] = _look(path)
    return {name: what for name, what in seen.items() if what}


def _look(path: Path) -> str:
    if path.is_symlink():
        return f"-> {path.readlink().as_posix()}"
    if path.is_dir():
        return "" if any(path.iterdir()) else "empty"
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    return f"{content} {'run' if path.stat().st_mode & 0o100 else 'read'}"


def room(root: Path) -> int:
    """Bytes that the files below a folder take on the disk."""
    return (
        sum(Path(at, name).lstat().st_blocks for at, _, names in os.walk(root) for name in names)
        * 512
    )


if __name__ == "__main__":
    grow(Path(sys.argv[1]), int(sys.argv[2]))
