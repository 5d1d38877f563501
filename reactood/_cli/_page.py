"""Build HTML pages that need no other file: texts are escaped, pictures are inside.

The functions return pieces of HTML, of class ``Html``. Whatever else they are given is
text, and is escaped; so a file may have any name.
"""

import base64
import html

STYLE = """
:root { color-scheme: light dark; --text: #1a1a1a; --soft: #595959; --line: #d5d5d5;
        --page: #fff; --shadow: #0004;
        --good: #005a8c; --bad: #a33f00 }
@media (prefers-color-scheme: dark) {
  :root { --text: #e4e4e4; --soft: #a8a8a8; --line: #444; --page: #15181b;
          --shadow: #fff5; --good: #7cc4ef; --bad: #f2a06b }
  img.drawing { filter: invert(1) hue-rotate(180deg); mix-blend-mode: screen }
}
* { box-sizing: border-box }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem;
       padding: 0 1rem; color: var(--text); background: var(--page);
       overflow-wrap: anywhere }
h1 { font-size: 1.6rem; line-height: 1.25 }
h2 { font-size: 1.25rem; margin-top: 2.5rem }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 1rem 0 }
caption { text-align: left; color: var(--soft); padding-bottom: .4rem }
th, td { padding: .25rem .8rem; text-align: right; vertical-align: top;
         border-bottom: 1px solid var(--line); white-space: nowrap }
th:first-child, td:first-child { text-align: left; padding-left: 0 }
thead th { white-space: normal; overflow-wrap: break-word; vertical-align: bottom }
tbody th { font-weight: normal; white-space: normal; min-width: 7.2rem }
.words td, .words th { text-align: left; white-space: normal }
.words tbody th { min-width: min(16rem, 30vw) }
.words td { min-width: 4.8rem } .words td:last-child { min-width: 10.5rem }
.soft td, .soft th { color: var(--soft) }
img { max-width: 100%; height: auto } figure { margin: 1rem 0 }
figcaption, .note { color: var(--soft); font-size: .9rem }
/* A shadow at an edge shows that a table goes on there. */
.wide { overflow-x: auto; background:
    linear-gradient(to right, var(--page) 40%, transparent) left / 3rem 100% local,
    linear-gradient(to left, var(--page) 40%, transparent) right / 3rem 100% local,
    linear-gradient(to right, var(--shadow), transparent) left / .9rem 100% scroll,
    linear-gradient(to left, var(--shadow), transparent) right / .9rem 100% scroll;
    background-repeat: no-repeat }
.pair { display: grid; gap: 0 2rem;
        grid-template-columns: repeat(auto-fit, minmax(min(100%, 27rem), 1fr)) }
.sheet { display: grid; gap: .6rem; padding: 0; margin: .5rem 0; list-style: none;
         grid-template-columns: repeat(auto-fill, minmax(min(8.2rem, 30%), 1fr)) }
.sheet img, .sheet .none { display: block; width: 100%; aspect-ratio: 1;
         object-fit: contain;
         background: color-mix(in srgb, var(--line) 35%, transparent) }
.sheet figure { margin: 0 } .sheet figcaption { font-size: .8rem; line-height: 1.3 }
.sheet .name { display: block; overflow: hidden; text-overflow: ellipsis;
               white-space: nowrap }
.accepted { color: var(--good) } .rejected { color: var(--bad) }
"""

# Nothing is fetched or run, whatever a page holds.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{body}
</main>
</body>
</html>
"""


class Html(str):
    """Text that is HTML already."""


def escaped(content):
    """Return anything as HTML: text is escaped, HTML is left as it is."""
    if isinstance(content, Html):
        return content
    # Names of files may hold bytes that are no characters.
    text = str(content).encode("utf-8", "backslashreplace").decode()
    return Html(html.escape(text))


def joined(*pieces):
    """Return pieces one after the other."""
    return Html("\n".join(escaped(piece) for piece in pieces if piece))


def element(tag, content, **attributes):
    """Return an element; ``class_`` is ``class``, ``aria_label`` is ``aria-label``."""
    return Html(f"<{tag}{_written(attributes)}>{escaped(content)}</{tag}>")


def _written(attributes):
    return "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escaped(value)}"'
        for name, value in attributes.items()
    )


def page(title, *body):
    """Return a whole page."""
    return PAGE.format(
        policy=POLICY, title=escaped(title), style=STYLE, body=joined(*body)
    )


def section(title, *content):
    """Return a part of the page below a heading."""
    return element("section", joined(element("h2", title), *content))


def paragraphs(texts, **attributes):
    """Return a paragraph for each text."""
    return joined(*(element("p", text, **attributes) for text in texts))


def table(head, rows, *, caption="", soft=(), class_="numbers"):
    """Return a table with headers; its first column names the rows.

    ``soft`` holds the places of rows that are shown in a softer colour.
    """
    titles = "".join(element("th", cell, scope="col") for cell in head)
    lines = []
    for place, (first, *cells) in enumerate(rows):
        of_row = element("th", first, scope="row")
        of_row += "".join(element("td", cell) for cell in cells)
        mark = {"class_": "soft"} if place in soft else {}
        lines.append(element("tr", Html(of_row), **mark))
    inside = joined(
        element("caption", caption) if caption else "",
        element("thead", element("tr", Html(titles))) if any(head) else "",
        element("tbody", joined(*lines)),
    )
    whole = element("table", inside, class_=class_)
    # A region that scrolls can be reached with the keyboard.
    label = {"role": "region", "aria_label": caption or "table", "tabindex": "0"}
    return element("div", whole, class_="wide", **label)


def picture(png, caption, *, alt=None):
    """Return a drawing with its caption below; ``png`` holds the bytes of the file."""
    image = embedded(png, "png", alt=alt or caption, class_="drawing")
    return element("figure", joined(image, element("figcaption", caption)))


def embedded(content, kind, *, alt, **attributes):
    """Return an image that is a part of the page."""
    data = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    return Html(f'<img alt="{escaped(alt)}"{_written(attributes)} src="{data}">')
