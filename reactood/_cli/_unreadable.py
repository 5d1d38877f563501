"""Name the images that could not be read."""

from reactood._cli._csv import shown
from reactood._cli._exit import say
from reactood._cli._inputs import counted
from reactood._images._files import UNREADABLE, short

MOST_NAMED = 10


def problems_of(reasons, paths):
    """Return reasons by path, without the path, in the order of the rows."""
    return {
        paths[row]: reasons[row].removeprefix(f"{short(paths[row])} {UNREADABLE}: ")
        for row in sorted(reasons)
    }


def say_problems(problems, n_images, name=None):
    """Write how many images were left out, and why the first of them were."""
    if not problems:
        return
    was = "were" if len(problems) > 1 else "was"
    say(
        f"{f'{name}: ' if name else ''}{len(problems):,} of {counted(n_images)} could "
        f"not be read and {was} left out:"
    )
    for path, reason in list(problems.items())[:MOST_NAMED]:
        say(f"  {shown(path)}: {reason}")
    if len(problems) > MOST_NAMED:
        say(f"  and {len(problems) - MOST_NAMED} more")
