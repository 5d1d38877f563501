"""Draw the letters and symbols of `load_digits_ood` again and write them to a file.

Run ``python -m reactood.datasets._draw_glyphs --out glyphs.npz``. The font is the one
embedded in Pillow (10.1 or newer, built with FreeType). The drawings come with the
package because another version of Pillow may draw slightly different grey values.
"""

import argparse

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from reactood.datasets._digits import GLYPHS, block_sums

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SYMBOLS = "!#$%&()*+/<=>?@[]{}~"
SIZES = (28, 36)  # font sizes on a canvas of 32 x 32 pixels
ANGLES = (-15, 0, 15)  # degrees
SHIFTS = (-2, 0, 2)  # canvas pixels, to the right


def draw_glyphs(characters):
    """Draw each character at every size, angle and shift: grey values in 0..16."""
    fonts = [ImageFont.load_default(size=size) for size in SIZES]
    drawn = [
        _glyph(character, font, angle, shift)
        for font in fonts
        for angle in ANGLES
        for shift in SHIFTS
        for character in characters
    ]
    return np.rint(np.stack(drawn)).astype(np.uint8)


def _glyph(character, font, angle, shift):
    # The digits were also made from 32 x 32 pixels, summed in blocks of 4 x 4.
    # The stroke width makes the thin font about as bold as the handwriting.
    left, top, right, bottom = font.getbbox(character, stroke_width=1)
    place = (16 + shift - (left + right) // 2, 16 - (top + bottom) // 2)
    canvas = Image.new("L", (32, 32))
    ImageDraw.Draw(canvas).text(place, character, fill=255, font=font, stroke_width=1)
    canvas = canvas.rotate(angle, resample=Image.Resampling.BILINEAR)
    return block_sums(np.asarray(canvas, dtype=np.int64), 4) / 255


def main(argv=None):
    """Draw both sets and write them as plain arrays."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default=GLYPHS, help="file to write (%(default)s)")
    args = parser.parse_args(argv)
    with open(args.out, "wb") as stream:
        np.savez_compressed(
            stream, letters=draw_glyphs(LETTERS), symbols=draw_glyphs(SYMBOLS)
        )
    print(f"glyphs written to {args.out}")


if __name__ == "__main__":
    main()
