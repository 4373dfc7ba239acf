"""Files of the package: poems (public domain), and a model trained on them."""

from pathlib import Path

HERE = Path(__file__).resolve().parent
POEMS = HERE / "tang_song_poems.txt"
POET = HERE / "poet"
