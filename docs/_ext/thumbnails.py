"""Thumbnails of the gallery that can be read: one panel of a wide figure, not all.

`gallery_thumbnails` in conf.py maps the name of a script to the number of a figure and
the part of its width to show, from and to, as fractions; the part of the height may
follow.
"""

from pathlib import Path

from PIL import Image, ImageOps


def _crop(app):
    """Cut the thumbnails out of the figures that sphinx-gallery has saved."""
    size = tuple(app.config.sphinx_gallery_conf["thumbnail_size"])
    images = Path(app.srcdir, "auto_examples", "images")
    for name, (number, *part) in app.config.gallery_thumbnails.items():
        left, right, top, bottom = part if len(part) == 4 else (*part, 0, 1)
        figure = images / f"sphx_glr_{name}_{number:03}.png"
        if not figure.exists():  # a build without the scripts
            continue
        with Image.open(figure) as image:
            width, height = image.size
            box = left * width, top * height, right * width, bottom * height
            shown = image.convert("RGB").crop(box)
        thumbnail = ImageOps.pad(shown, size, color="white")
        thumbnail.save(images / "thumb" / f"sphx_glr_{name}_thumb.png")


def setup(app):
    """Register the hook, which comes after sphinx-gallery's."""
    app.add_config_value("gallery_thumbnails", {}, "env", types=(dict,))
    app.connect("builder-inited", _crop, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
