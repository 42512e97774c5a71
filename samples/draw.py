"""Draws everything in this folder: `python samples/draw.py`. The same bytes each time with the same libraries.

Texts, numbers, people and places are made up. Fonts are those that PyMuPDF and Pillow carry. The encrypted file has a
random salt, so it is drawn only where it is missing.

Over 300 lines: one function for each sample.
"""

# ruff: noqa: E501

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
import pymupdf
from PIL import Image, ImageDraw, ImageFilter, ImageFont

HERE = Path(__file__).parent
A4 = pymupdf.paper_rect("a4")
INK, BLUE, RED, SAND, GREEN = "#1d2733", "#1f5a8a", "#b8442f", "#f3ead9", "#3f7d5a"
CSS = f"""
body {{ font-family: sans-serif; font-size: 10.5pt; line-height: 1.35; color: {INK}; }}
h1 {{ font-size: 23pt; margin: 0 0 4pt 0; color: {BLUE}; }} h2 {{ font-size: 13.5pt; margin: 10pt 0 3pt 0; color: {BLUE}; }}
p {{ margin: 0 0 6pt 0; text-align: justify; }} .small {{ font-size: 8.5pt; color: #5b6773; }} .lead {{ font-size: 12pt; }}
"""


def rgb(colour: str) -> tuple[float, ...]:
    return tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))


def save(document: pymupdf.Document, name: str, **options: object) -> None:
    document.set_metadata({"title": name, "producer": "pagepack samples", "creationDate": "D:20260101000000Z"})
    if not options:
        document.subset_fonts()
    document.save(HERE / name, garbage=4, deflate=True, deflate_fonts=True, no_new_id=True, **options)


def report() -> None:
    document = pymupdf.open()
    page = document.new_page(width=A4.width, height=A4.height)
    page.draw_rect((0, 0, A4.width, 14), fill=rgb(BLUE), color=None)
    page.insert_htmlbox(
        (56, 40, 540, 300),
        """<h1>Heron Bay Tidal Garden</h1>
        <p class="small">Annual report 2025 &nbsp;·&nbsp; Society of Friends of the Bay &nbsp;·&nbsp; 14 March 2026</p>
        <p class="lead">The garden opened its gates on 211 days and welcomed 48,320 visitors, one in six of them a child.
        The storm of 3 November flooded the lower path, and forty volunteers had it clear again in nine days.</p>
        <h2>The year in short</h2>
        <p>In spring we planted 1,260 sea buckthorn shrubs along the eastern dyke. The seedlings came from our own nursery,
        which has paid for itself since 2023. In summer the tidal pool was widened by eleven metres; the first pair of
        avocets nested there in June and raised three chicks.</p>
        <p>Costs rose by 4.2 %, income by 6.9 %. For the first time the gift shop earned more than the café. The reserve
        now covers seven months, one more than our statutes ask for.</p>""",
        css=CSS,
    )
    rows = [
        ("Quarter", "Visitors", "Income, €", "Costs, €", "Balance, €"),
        ("January – March", "4,180", "21,450", "30,200", "−8,750"),
        ("April – June", "15,960", "74,310", "52,840", "21,470"),
        ("July – September", "21,740", "98,020", "61,390", "36,630"),
        ("October – December", "6,440", "33,700", "47,115", "−13,415"),
        ("Year", "48,320", "227,480", "191,545", "35,935"),
    ]
    table(page, 56, 310, (136, 86, 88, 86, 88), rows)
    page.insert_text((56, 446), "Table 1. Visitors and money by quarter.", fontsize=8.5, color=rgb("#5b6773"))
    chart(page, pymupdf.Rect(56, 480, 540, 770))
    centred(page, 298, 806, "1", 9)

    page = document.new_page(width=A4.width, height=A4.height)
    page.draw_rect((0, 0, A4.width, 14), fill=rgb(BLUE), color=None)
    page.insert_htmlbox(
        (56, 40, 540, 700),
        """<h1>鹭湾潮汐花园</h1>
        <p class="small">二〇二五年度报告 · 海湾之友协会 · 2026年3月14日</p>
        <p class="lead">花园全年开放211天，接待游客48,320人次，其中六分之一是儿童。十一月三日的风暴淹没了低处的小路，
        四十名志愿者用九天时间把它清理干净。</p>
        <h2>一年回顾</h2>
        <p>春天，我们沿东堤种下了1,260株沙棘。树苗来自我们自己的苗圃，苗圃自2023年起已能自给自足。
        夏天，潮池拓宽了十一米；六月，第一对反嘴鹬在那里筑巢，养大了三只雏鸟。</p>
        <p>支出增长4.2%，收入增长6.9%。礼品店的收入第一次超过了咖啡馆。现在的储备金可以维持七个月，
        比章程的要求多一个月。</p>
        <h2>明年计划</h2>
        <p>一、修建一条轮椅可以通行的木栈道，长三百二十米。<br/>二、与两所小学合办“潮汐课堂”，每周一次。<br/>
        三、把观鸟屋的旧屋顶换成芦苇屋顶。</p>
        <h2>Plans for next year</h2>
        <p>1. A boardwalk of 320 metres that wheelchairs can use.<br/>2. A weekly “tide class” with two primary schools.<br/>
        3. A reed roof for the old bird hide, cut from our own reed bed.</p>
        <p class="small">Questions and gifts: garden@heronbay.example · Dyke Road 7 · 电话 0555 20 14</p>""",
        css=CSS.replace("10.5pt", "13pt").replace("12pt", "14.5pt").replace("justify", "left"),
    )
    lighthouse(page, 46, 610)
    centred(page, 298, 806, "2", 9)
    save(document, "report.pdf")


def table(page: pymupdf.Page, x: float, y: float, widths: tuple[int, ...], rows: list[tuple[str, ...]]) -> None:
    font_bold, font = pymupdf.Font("hebo"), pymupdf.Font("helv")
    writer = pymupdf.TextWriter(page.rect, color=rgb(INK))
    for number, row in enumerate(rows):
        top = y + number * 20
        is_strong = number in (0, len(rows) - 1)
        if is_strong:
            page.draw_rect((x, top, x + sum(widths), top + 20), fill=rgb(SAND), color=None)
        page.draw_line((x, top + 20), (x + sum(widths), top + 20), color=rgb("#b9b2a3"), width=0.6)
        left = x
        for column, (cell, width) in enumerate(zip(row, widths, strict=True)):
            face = font_bold if is_strong else font
            offset = 6 if column == 0 else width - 8 - face.text_length(cell, 10)
            writer.append((left + offset, top + 14), cell, font=face, fontsize=10)
            left += width
    writer.write_text(page)


def chart(page: pymupdf.Page, box: pymupdf.Rect) -> None:
    months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
    visitors = [0.9, 1.2, 2.1, 3.8, 5.6, 6.5, 8.1, 8.6, 5.0, 3.4, 1.6, 1.4]
    page.insert_text((box.x0, box.y0 + 12), "Visitors by month, thousands", fontsize=11.5, fontname="hebo")
    base, left, step = box.y1 - 22, box.x0 + 24, (box.width - 30) / 12
    for tick in range(0, 10, 2):
        y = base - tick * 26
        page.draw_line((left, y), (box.x1, y), color=rgb("#d5d0c5"), width=0.5)
        page.insert_text((box.x0 + 6, y + 3), str(tick), fontsize=8.5)
    for number, (month, value) in enumerate(zip(months, visitors, strict=True)):
        x = left + number * step
        colour = RED if value == max(visitors) else BLUE
        page.draw_rect((x + 7, base - value * 26, x + step - 5, base), fill=rgb(colour), color=None)
        centred(page, x + step / 2 + 1, base + 14, month, 8.5)
        centred(page, x + step / 2 + 1, base - value * 26 - 4, f"{value}", 8)


def centred(page: pymupdf.Page, x: float, y: float, text: str, size: float, font: str = "helv") -> None:
    width = pymupdf.get_text_length(text, fontname=font, fontsize=size)
    page.insert_text((x - width / 2, y), text, fontname=font, fontsize=size, color=rgb(INK))


ARTICLE = [
    """The lighthouse at Cape Sorrel has no keeper and has not had one for fifty-one years, yet somebody still writes its
    log. Every evening at six an entry appears in the ledger on the ground floor: wind, visibility, ships in sight, and now
    and then a remark about gulls.""",
    """For a long time nobody in the village would say who it was. The harbour office denied it, the coast guard denied it,
    and the postman, who has the only other key, smiled and talked about his bees. The handwriting was no help. It leans
    to the left on Mondays and to the right on Fridays.""",
    """The answer came with the digital archive. When the county scanned the ledgers last winter, 19,000 pages in all, a
    student compared the strokes of the letter g. She found not one writer but thirty-four, taking turns since 1974, each
    trained by the one before.""",
    """“We never agreed on a rule,” says Ada Wren, who is eighty and wrote on Thursdays for two decades. “You went up, you
    looked, you wrote what you saw. If you saw nothing, you wrote that. My father said that an honest nothing is worth more
    than a pretty something.”""",
    """The log turns out to be useful. It holds the longest unbroken record of fog on this coast, and it agrees with the
    satellite in nineteen cases of twenty. In the twentieth the satellite was wrong: it took a fleet of white sails for a
    low cloud, on the day of the regatta of 1998.""",
    """Next year the lamp will be replaced by a smaller one that needs no cleaning. The ledger stays. A new volume has been
    ordered, four hundred pages, bound in blue cloth, and the list of names on the inside of the cover has room for many
    more.""",
]


def article() -> None:
    document = pymupdf.open()
    page = document.new_page(width=612, height=792)
    page.insert_text((54, 60), "THE COASTAL REVIEW", fontname="hebo", fontsize=9, color=rgb(RED))
    page.insert_text((430, 60), "Spring 2026 · page 31", fontname="heit", fontsize=9)
    page.draw_line((54, 68), (558, 68), color=rgb(INK), width=0.8)
    page.insert_text((54, 108), "The log that writes itself", fontname="tibo", fontsize=29, color=rgb(INK))
    page.insert_text((54, 132), "Who keeps the book of an empty lighthouse?", fontname="tiit", fontsize=14)
    body = "body { font-family: serif; font-size: 11.4pt; line-height: 1.32; } p { text-align: justify; margin: 0 0 7pt 0; }"
    for column, (start, end) in enumerate(((0, 3), (3, 6))):
        left = 54 + column * 262
        html = "".join(f"<p>{paragraph}</p>" for paragraph in ARTICLE[start:end])
        page.insert_htmlbox((left, 156, left + 242, 560), html, css=body)
    page.draw_line((306, 160), (306, 470), color=rgb("#b9b2a3"), width=0.5)
    lighthouse(page, 54, 500)
    page.insert_text((54, 684), "Cape Sorrel at dusk. Drawing: the author.", fontname="tiit", fontsize=9)
    save(document, "article.pdf")


def lighthouse(page: pymupdf.Page, x: float, y: float) -> None:
    page.draw_rect((x, y, x + 504, y + 166), fill=rgb("#dfe7ee"), color=None)
    page.draw_rect((x, y + 118, x + 504, y + 166), fill=rgb("#7c9db5"), color=None)
    page.draw_polyline([(x + 300, y + 120), (x + 350, y + 96), (x + 470, y + 92), (x + 504, y + 104), (x + 504, y + 140),
                        (x + 310, y + 140)], fill=rgb("#6b6a5c"), color=None, closePath=True)  # fmt: skip
    page.draw_polyline([(x + 394, y + 96), (x + 400, y + 36), (x + 420, y + 36), (x + 426, y + 96)], fill=(1, 1, 1),
                       color=rgb(INK), closePath=True)  # fmt: skip
    for stripe in (48, 72):
        page.draw_rect((x + 397, y + stripe, x + 423, y + stripe + 12), fill=rgb(RED), color=None)
    page.draw_rect((x + 402, y + 22, x + 418, y + 36), fill=rgb("#ffe08a"), color=rgb(INK))
    page.draw_polyline([(x + 402, y + 29), (x, y + 6), (x, y + 52)], fill=rgb("#fff4cc"), color=None, closePath=True)
    for wave in range(11):
        left = x + 8 + wave * 28
        page.draw_bezier(
            (left, y + 146), (left + 7, y + 140), (left + 13, y + 152), (left + 20, y + 146), color=(1, 1, 1)
        )


def invoice() -> None:
    paper = Image.new("L", (1240, 1754), 250)
    pen = ImageDraw.Draw(paper)
    font = {size: ImageFont.load_default(size) for size in (26, 30, 34, 64)}
    pen.text((110, 110), "Marlow & Finch Bindery", font=font[64], fill=30)
    pen.text((110, 195), "Tannery Lane 12, Oldbridge · VAT no. 4471-902-3", font=font[26], fill=60)
    pen.line((110, 245, 1130, 245), fill=60, width=4)
    pen.text((110, 300), "INVOICE No. 2026-0417", font=font[34], fill=20)
    pen.text((820, 300), "Date: 9 April 2026", font=font[30], fill=20)
    for line, text in enumerate(("Bill to:", "Heron Bay Tidal Garden", "Dyke Road 7", "Heron Bay")):
        pen.text((110, 380 + 42 * line), text, font=font[30], fill=30)
    lines = [
        ("Item", "Qty", "Price", "Amount"),
        ("Visitor book, blue cloth, 400 p.", "2", "86.00", "172.00"),
        ("Repair of spine, atlas of birds", "1", "54.50", "54.50"),
        ("Slip case, grey board", "3", "19.90", "59.70"),
        ("Gold lettering, per line", "4", "7.25", "29.00"),
    ]
    for number, cells in enumerate(lines):
        y = 620 + number * 66
        for cell, x in zip(cells, (110, 720, 880, 1130), strict=True):
            anchor = "la" if x == 110 else "ra"
            pen.text((x, y), cell, font=font[30], fill=25, anchor=anchor)
        pen.line((110, y + 50, 1130, y + 50), fill=120, width=3 if number == 0 else 1)
    for number, (label, amount) in enumerate((("Net", "315.20"), ("VAT 20 %", "63.04"), ("Total due, EUR", "378.24"))):
        y = 990 + number * 56
        pen.text((700, y), label, font=font[34 if number == 2 else 30], fill=20)
        pen.text((1130, y), amount, font=font[34 if number == 2 else 30], fill=20, anchor="ra")
    pen.text((110, 1250), "Payable within 30 days to account 88 2041 7730.", font=font[30], fill=40)
    pen.text((110, 1296), "Thank you for keeping books alive.", font=font[30], fill=40)
    stamp = Image.new("L", (330, 130), 255)
    ImageDraw.Draw(stamp).rounded_rectangle((5, 5, 325, 125), 18, outline=110, width=7)
    ImageDraw.Draw(stamp).text((165, 65), "RECEIVED", font=ImageFont.load_default(54), fill=110, anchor="mm")
    turned = stamp.rotate(11, expand=True, fillcolor=255)
    paper.paste(turned, (760, 1330), Image.eval(turned, lambda value: 255 if value < 250 else 0))
    scan = paper.rotate(1.3, resample=Image.Resampling.BICUBIC, fillcolor=225).filter(ImageFilter.GaussianBlur(0.8))
    noise = np.random.default_rng(7).normal(0, 7, (scan.height, scan.width))
    shade = np.linspace(4, -14, scan.width)[None, :]
    scan = Image.fromarray(np.clip(np.asarray(scan, float) + noise + shade, 0, 255).astype(np.uint8))
    jpeg = io.BytesIO()
    scan.save(jpeg, "JPEG", quality=60)
    document = pymupdf.open()
    page = document.new_page(width=A4.width, height=A4.height)
    page.insert_image(page.rect, stream=jpeg.getvalue())
    save(document, "invoice-scan.pdf")


def fax() -> None:
    pages = []
    texts = [
        ("FAX", ["To: Station 4, Cape Sorrel", "From: Harbour office", "Date: 2 February 1994", "Pages: 3", "",
                 "Please find the tide tables for the", "coming week on the next two sheets.", "", "H. Brandt"]),
        ("TIDES 1/2", ["Mon  03:12  0.8 m   09:24  4.1 m", "Mon  15:40  0.9 m   21:51  3.9 m", "Tue  04:01  0.7 m   10:10  4.2 m",
                       "Tue  16:29  0.8 m   22:38  4.0 m", "Wed  04:48  0.6 m   10:55  4.4 m"]),
        ("TIDES 2/2", ["Thu  05:33  0.5 m   11:39  4.5 m", "Fri  06:17  0.5 m   12:22  4.5 m", "Sat  07:01  0.6 m   13:05  4.4 m", "",
                       "High water Friday: keep the lower", "path closed from 11:30 to 13:15."]),
    ]  # fmt: skip
    for title, lines in texts:
        sheet = Image.new("1", (1000, 1400), 1)
        pen = ImageDraw.Draw(sheet)
        pen.text((80, 80), title, font=ImageFont.load_default(72), fill=0)
        pen.line((80, 180, 920, 180), fill=0, width=5)
        for number, line in enumerate(lines):
            pen.text((80, 230 + 62 * number), line, font=ImageFont.load_default(42), fill=0)
        pages.append(sheet)
    pages[0].save(HERE / "fax.tiff", save_all=True, append_images=pages[1:], compression="group4", dpi=(150, 150))


def street() -> None:
    """A street at evening, photographed with the camera held upright: stored lying, with EXIF orientation 6."""
    rng = random.Random(3)
    width, height = 1200, 1600
    rows = np.linspace(0, 1, height)[:, None, None]
    sky = (np.array([[[58, 84, 128]]]) * (1 - rows) + np.array([[[238, 176, 132]]]) * rows).repeat(width, 1)
    scene = Image.fromarray(sky.astype(np.uint8))
    pen = ImageDraw.Draw(scene)
    left = 0
    for shade, house in zip(("#8a4b3c", "#c9a36a", "#5f6f63", "#7d5468"), (330, 290, 300, 290), strict=True):
        top = 380 + rng.randint(-90, 90)
        pen.rectangle((left, top, left + house, 1330), fill=shade)
        pen.polygon(((left, top), (left + house // 2, top - 130), (left + house, top)), fill="#3b3338")
        for x in range(left + 40, left + house - 70, 95):
            for y in range(top + 60, 800, 150):
                lit = rng.random() < 0.6
                pen.rectangle((x, y, x + 55, y + 85), fill="#ffdf8f" if lit else "#2b3442", outline="#2a2326", width=4)
        left += house
    pen.polygon(((0, 1330), (width, 1330), (width, height), (0, height)), fill="#4a4a50")
    for x in range(60, width, 240):
        pen.polygon(((x, 1470), (x + 120, 1470), (x + 130, 1490), (x - 4, 1490)), fill="#d9d4c4")
    for box, colour, text, size in (
        ((60, 960, 560, 1070), GREEN, "BAKERY & CAFE", 58),
        ((640, 950, 1130, 1060), BLUE, "OLD HARBOUR BOOKS", 40),
        ((420, 160, 1150, 290), RED, "SUMMER CONCERT 21 JUNE", 48),
    ):
        pen.rounded_rectangle(box, 14, fill=colour, outline="#fff6e0", width=6)
        centre = ((box[0] + box[2]) // 2, (box[1] + box[3]) // 2)
        pen.text(centre, text, font=ImageFont.load_default(size), fill="#fff6e0", anchor="mm")
    pen.rectangle((560, 1120, 590, 1420), fill="#2d2d33")
    pen.polygon(
        ((470, 1130), (700, 1130), (750, 1175), (700, 1220), (470, 1220)), fill="#f5f1e6", outline="#2d2d33", width=5
    )
    pen.text((595, 1175), "FERRY 300 m", font=ImageFont.load_default(36), fill="#2d2d33", anchor="mm")
    soft = np.asarray(scene.filter(ImageFilter.GaussianBlur(0.9)), float)
    grain = np.random.default_rng(5).normal(0, 4, soft.shape)
    photo = Image.fromarray(np.clip(soft + grain, 0, 255).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.transpose(Image.Transpose.ROTATE_90).save(HERE / "street.jpg", quality=72, exif=exif)


def timetable() -> None:
    """A landscape page, stored upright with /Rotate 90."""
    document = pymupdf.open()
    page = document.new_page(width=A4.height, height=A4.width)
    page.insert_text((50, 62), "Ferry timetable, summer 2026", fontname="hebo", fontsize=24, color=rgb(BLUE))
    page.insert_text((50, 84), "Heron Bay – Gull Island – Cape Sorrel, daily except 24 December", fontsize=11)
    header = ("Stop", "1", "3", "5", "7", "9", "11", "13")
    stops = ("Heron Bay, pier", "Gull Island, north", "Gull Island, chapel", "Cape Sorrel, light", "Cape Sorrel, town")
    rows = [header]
    for stop, minutes in zip(stops, (0, 25, 38, 71, 84), strict=True):
        starts = (390, 480, 570, 690, 810, 930, 1050)
        rows.append((stop, *(f"{(s + minutes) // 60}:{(s + minutes) % 60:02}" for s in starts)))
    rows.append(("Bicycles carried", "yes", "yes", "no", "yes", "yes", "no", "yes"))
    table(page, 50, 120, (168, 82, 82, 82, 82, 82, 82, 82), rows)
    notes = "In fog the 5 and the 11 do not call at the chapel. Dogs travel free. Last boat back from the light: 18:41."
    page.insert_text((50, 300), notes, fontsize=11)
    for number, (name, x) in enumerate((("Heron Bay", 90), ("Gull Island", 330), ("Cape Sorrel", 690))):
        page.draw_circle((x, 420), 9, fill=rgb((BLUE, GREEN, RED)[number]), color=None)
        centred(page, x, 448, name, 12, "hebo")
    page.draw_bezier((100, 416), (180, 360), (240, 380), (322, 415), color=rgb(INK), dashes="[6 4] 0", width=1.5)
    page.draw_bezier((340, 416), (450, 350), (580, 480), (682, 418), color=rgb(INK), dashes="[6 4] 0", width=1.5)
    centred(page, 210, 368, "25 minutes", 10)
    centred(page, 490, 392, "46 minutes", 10)
    upright = pymupdf.open()
    sheet = upright.new_page(width=A4.width, height=A4.height)
    sheet.show_pdf_page(sheet.rect, document, 0, rotate=90)
    sheet.set_rotation(90)
    save(upright, "timetable-landscape.pdf", expand=0)


def locked() -> None:
    if (HERE / "minutes-encrypted.pdf").exists():
        return
    document = pymupdf.open()
    page = document.new_page(width=A4.width, height=A4.height)
    page.insert_text((72, 100), "Minutes of the board, confidential", fontsize=18)
    options = {
        "encryption": pymupdf.PDF_ENCRYPT_AES_256,
        "user_pw": "heron",
        "owner_pw": "bay",
    }
    save(document, "minutes-encrypted.pdf", **options)


def cut_short() -> None:
    """The first part of a PDF that lists its pages at the end, as a broken download leaves it: nothing to repair."""
    picture = io.BytesIO()
    Image.open(HERE / "street.jpg").save(picture, "JPEG", quality=40)
    head = b"<</Type/XObject/Subtype/Image/Width 1600/Height 1200/ColorSpace/DeviceRGB/BitsPerComponent 8"
    head += b"/Filter/DCTDecode/Length %d>>" % len(picture.getvalue())
    whole = b"%PDF-1.7\n1 0 obj\n" + head + b"\nstream\n" + picture.getvalue()
    (HERE / "catalogue-cut-short.pdf").write_bytes(whole[: len(whole) // 2])


if __name__ == "__main__":
    for draw in (report, article, invoice, fax, street, timetable, locked, cut_short):
        draw()
