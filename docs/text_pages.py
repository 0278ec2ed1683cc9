"""Draw pages of text, the example of docs/fine-tune.md: text_pages.py TRAIN_FOLDER TEST_FOLDER FONT.ttf … ; the text is samdiff's own pages."""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIDE, TRAIN, TEST = 512, 20, 4
train, test, fonts = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
lines = [line for page in sorted(Path(__file__).parent.glob("*.md")) for line in page.read_text().splitlines() if line.strip()]
for number in range(TRAIN + TEST):
    draw = np.random.default_rng(number)
    size, top = int(draw.integers(16, 40)), 8
    ink, paper = sorted(draw.integers(0, 90, 3).tolist()), [255 - value for value in draw.integers(0, 40, 3).tolist()]
    dark = bool(draw.random() < 0.3)
    page = Image.new("RGB", (SIDE, SIDE), tuple(ink if dark else paper))
    canvas, font = ImageDraw.Draw(page), ImageFont.truetype(fonts[number % len(fonts)], size)
    for line in lines[int(draw.integers(len(lines) - 60)) :]:
        canvas.text((8, top), line, tuple(paper if dark else ink), font)
        top += int(size * 1.3)
        if top > SIDE:
            break
    folder = train if number < TRAIN else test / "HR"
    folder.mkdir(parents=True, exist_ok=True)
    page.save(folder / f"page{number:02}.png")
