"""Names for what is drawn of images; no two images get the same."""

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path


def picture_names(images: Iterable[Path], taken: Iterable[Path] = ()) -> dict[Path, Path]:
    """Give each image a name for what is made of it, to which an ending such as '.png' is put.

    Args:
        images (Iterable[Path]): Paths of images, which need not exist.
        taken (Iterable[Path]): Names that no image gets.

    Returns:
        dict[Path, Path]: To each image its path below the folder that all images share, without suffix. A name keeps
        its suffix where the name without it is another image's too, as where cat.jpg lies beside cat.png.
    """
    places = {path: Path(os.path.abspath(path)) for path in images}  # without '..'
    if not places:
        return {}
    common = os.path.commonpath([place.parent for place in places.values()])
    names = {path: place.relative_to(common) for path, place in places.items()}
    stems = Counter(name.with_suffix('') for name in set(names.values()))
    whole = {*names.values(), *taken}

    def shortened(name: Path) -> Path:
        stem = name.with_suffix('')
        return stem if stems[stem] == 1 and stem not in whole else name

    return {path: shortened(name) for path, name in names.items()}
