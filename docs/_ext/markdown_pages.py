"""Markdown copies of all pages, and llms.txt, which lists them.

Each page `a/b.html` gets a copy `a/b.md` for programs that read text. llms.txt follows
https://llmstxt.org: a summary, and for each section of the site a list of links.
llms-full.txt holds all pages that were written by hand, one after another.
"""

import re
from pathlib import Path

from bs4 import BeautifulSoup
from markdownify import MarkdownConverter

# What only a browser needs: anchors of headings, buttons, links to downloads.
NOT_COPIED = (
    "a.headerlink, script, style, svg, .sphx-glr-download-link-note,"
    ".sphx-glr-footer, .sphx-glr-signature, .sphx-glr-thumbnail-title, .only-dark"
)


def _language(pre):
    """Return the language of a block of code, from the class that Sphinx sets."""
    for parent in pre.parents:
        for name in parent.get("class") or ():
            if name.startswith("highlight-"):
                found = name.removeprefix("highlight-")
                return {"default": "python", "pycon": "python"}.get(found, found)
    return ""


def to_markdown(body):
    """Return the Markdown of a page's HTML; links between pages go to the copies."""
    soup = BeautifulSoup(body, "html.parser")
    for element in soup.select(NOT_COPIED):
        element.decompose()
    for kind in soup.select("span.classifier"):  # of a parameter: "name : kind"
        kind.insert(0, " : ")
    for link in soup.find_all("a", href=True):
        if "://" not in link["href"]:
            link["href"] = re.sub(r"\.html(?=#|$)", ".md", link["href"])
    text = MarkdownConverter(
        heading_style="ATX",
        bullets="-",
        code_language_callback=_language,
        escape_asterisks=False,
        escape_underscores=False,
        escape_misc=False,
    ).convert_soup(soup)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _copy_page(app, pagename, templatename, context, doctree):
    """Write the Markdown copy of one page, and link to it from the page's head."""
    if app.builder.name != "html" or doctree is None:
        return
    path = Path(app.outdir, pagename + ".md")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_markdown(context["body"]), encoding="utf-8")
    name = pagename.rsplit("/", 1)[-1]
    context["metatags"] = context.get("metatags", "") + (
        f'\n<link rel="alternate" type="text/markdown" href="{name}.md" />'
    )


def _below(env, docname):
    """Yield a page and all pages below it, in the order of the tables of contents."""
    yield docname
    for child in env.toctree_includes.get(docname, ()):
        yield from _below(env, child)


def _summary(path):
    """Return the first sentence of a Markdown file, or nothing if it has no prose."""
    for paragraph in path.read_text(encoding="utf-8").split("\n\n"):
        text = re.sub(r" ?\[\[\d+\]\]\([^)]*\)", "", " ".join(paragraph.split()))
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text)
        found = re.match(r"(?:[A-Z]|`[^`]).*?\.(?=\s|$)", text)
        if found:
            return found.group()
    return ""


def _write_lists(app, exception):
    """Write llms.txt and llms-full.txt."""
    if exception is not None or app.builder.name != "html":
        return
    env, out = app.env, Path(app.outdir)
    root = env.config.root_doc
    lines = [f"# {app.config.project}", "", f"> {app.config.llms_summary}", ""]
    lines += ["## Start", ""]
    full = []
    sections = env.toctree_includes[root]
    single = [name for name in sections if not env.toctree_includes.get(name)]
    grouped = [name for name in sections if name not in single]

    def entry(docname):
        path = out / f"{docname}.md"
        address = f"{app.config.html_baseurl}{docname}.md"
        title = env.titles[docname].astext()
        if not re.match(r"(auto_examples|api)/", docname):
            full.append(path.read_text(encoding="utf-8"))
        summary = _summary(path)
        return f"- [{title}]({address})" + (f": {summary}" if summary else "")

    lines += [entry(name) for name in (root, *single)]
    for section in grouped:
        lines += ["", f"## {env.titles[section].astext()}", ""]
        lines += [entry(name) for name in dict.fromkeys(_below(env, section))]
    (out / "llms.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (out / "llms-full.txt").write_text("\n\n".join(full), encoding="utf-8")


def setup(app):
    """Register the two hooks."""
    app.add_config_value("llms_summary", "", "html", types=(str,))
    app.connect("html-page-context", _copy_page)
    app.connect("build-finished", _write_lists)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
