"""Pages in scripts beyond Latin, in a font that comes with matplotlib."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pymupdf
from numpy.typing import NDArray

ENGLISH = ["The archive of the harbour holds", "forty-one boxes of letters, ledgers,", "unread since 1913."]
RUSSIAN = ["Архив портовой конторы хранит сорок", "один ящик писем, книг и", "чертежей, с 1913 года."]
GREEK = ["Το αρχείο του λιμεναρχείου φυλάσσει", "σαράντα ένα κουτιά με επιστολές,", "αδιάβαστα από το 1913."]
ARMENIAN = ["Նավահանգստի գրասենյակի արխիվը պահում", "է քառասունմեկ արկղ նամակներ, մատյաններ"]


def in_dejavu(lines: list[str]) -> NDArray[np.uint8]:
    """A small page of these lines."""
    import matplotlib  # here, for every test process imports this module, and few draw such a page

    page = pymupdf.open().new_page(width=300, height=190)
    font = pymupdf.Font(fontfile=str(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")))
    writer = pymupdf.TextWriter(page.rect)
    for i, line in enumerate(lines):
        writer.append((20, 30 + 22 * i), line, font, 12)
    writer.write_text(page)
    pixmap = page.get_pixmap(matrix=pymupdf.Matrix(1.5, 1.5), alpha=False)
    return np.frombuffer(pixmap.samples, np.uint8).reshape(pixmap.h, pixmap.w, 3)
